/* chat.h - conversations as token ids, in the form that a model was trained on.
 *
 * A chat model is a language model that has seen one notation for "who speaks" over and over: its template. In another
 * notation it is lost, so the ids here are those of the official code, token by token (make conformance). Two stages
 * share this: inference asks for the ids that an answer follows, fine-tuning also which of them are to be learnt. */
#pragma once
#include "common.h"
#include "tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- conversations ---------------------------------------------------------------------------------------------- */
typedef enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL } ChatRole; /* TOOL: what a tool answered */
typedef struct {
    ChatRole role;
    char *content;
    char *metadata;                /* assistant: the tool that it calls, or "interpreter"; NULL: it speaks (ChatGLM3) */
    char *tools;                   /* system: the tools on offer, JSON indented by 4; NULL: none (ChatGLM3) */
} Message;
typedef struct { Message *v; size_t n, cap; } Chat;

void chat_add(Chat *c, ChatRole role, const char *content, const char *metadata); /* copies; metadata may be NULL */
void chat_cut(Chat *c, size_t first, size_t n);  /* messages first .. first+n-1 leave */
void chat_free(Chat *c);
/* One line of data, {"messages": [{"role", "content", "metadata"?, "tools"?}, ...]}, into the empty *c. Roles: system,
 * user, assistant, tool (also called observation). NULL when it was one, else why not: a new string. */
char *chat_parse(const char *json, Chat *c);
void chat_json(const Chat *c, size_t first, Buf *out); /* the way back, from message `first` on, without a newline */

/* ---- templates -------------------------------------------------------------------------------------------------- */
#define CHAT_TEMPLATES "chatml|llama2|llama3|mistral|chatglm1|chatglm2|chatglm3|glm4|alpaca|plain"
typedef struct ChatForm ChatForm;
typedef struct {
    const ChatForm *form;
    char *system;                  /* what stands for a missing system message; NULL: nothing */
    char *system_lead;             /* what every system message begins with; NULL: nothing */
    bool drop_thoughts;            /* earlier answers lose all up to </think> */
    const char *found_by;          /* what it was recognised by, for people */
} ChatTemplate;

/* The template of the model in dir: the one called name, or with NULL the one its files speak of. Dies where they name
 * one that is not known here, and where the tokenizer lacks a token that the template needs. */
ChatTemplate chat_template(const char *dir, const Tokenizer *t, const char *name);
const char *chat_template_name(const ChatTemplate *t);
/* Writes the template into the tokenizer's files in dir, unless they say it already, so that others know it too. False:
 * it is one that is known by its tokens or by --template only. */
bool chat_template_save(const ChatTemplate *t, const Tokenizer *tok, const char *dir);
void chat_template_free(ChatTemplate *t);
/* NULL, or the sentence (a new string) that says why the template cannot hold this conversation. */
char *chat_problem(const ChatTemplate *t, const Chat *c);
/* Is there a place for a system message? (ChatGLM and ChatGLM2 leave it out, as the official code does.) */
bool chat_has_system(const ChatTemplate *t);

/* Appends the conversation's ids; with ask, also those that make the model answer. What a message says never becomes a
 * special token. targets (may be NULL) gets one byte for each id, 1 where it is to be learnt: the assistant's words and
 * the token that ends them; templates that write earlier rounds as text (ChatGLM, ChatGLM2) teach the last answer
 * only. Dies where chat_problem has something to say. */
void chat_format(const ChatTemplate *t, const Tokenizer *tok, const Chat *c, bool ask, Ids *ids, Buf *targets);
/* Appends the ids that end an answer: every special token of the template. */
void chat_stops(const ChatTemplate *t, const Tokenizer *tok, Ids *stops);
/* Does an answer that ended with this id want another message of the assistant's? (ChatGLM3: words, then a call.) */
bool chat_goes_on(const ChatTemplate *t, const Tokenizer *tok, int32_t id);

/* What the model wrote so far (n bytes, special tokens left out): where the words begin that a person should see, in
 * *words, and the name of the tool it calls, in *call (n_call bytes; none: 0). False: it cannot be told yet. At the
 * end of an answer (whole) it always can. */
bool chat_words(const ChatTemplate *t, const char *text, size_t n, bool whole, size_t *words, const char **call,
                size_t *n_call);
void chat_add_answer(const ChatTemplate *t, Chat *c, const char *text, size_t n); /* whole, as the model wrote it */

#ifdef __cplusplus
}
#endif
