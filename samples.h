/* samples.h - the data of a task: files of conversations, texts or labelled texts in, batches for the network out.
 *
 * A sample is what the model sees at once: a conversation in its template's form, a piece of plain text, or a text with
 * its class. Each token is marked: learnt, or only read. Files are read whole before a run begins, so that a broken
 * line is named (file and line) before anything was trained. */
#pragma once
#include "chat.h"
#include "common.h"
#include "model.h"
#include "tokenizer.h"

typedef enum { TASK_CHAT, TASK_LM, TASK_CLASSIFY, TASK_DPO } Task;

/* ---- reading [samples.read] ------------------------------------------------------------------------------------- */
typedef struct Sample {
    size_t at;                     /* of its first token in the set's arrays */
    uint32_t n;                    /* tokens */
    uint32_t n2;                   /* tokens of the conversation that it is preferred to, which follows; 0: none */
    int32_t label;                 /* its class; -1: no class */
    uint64_t origin;               /* of a variant: the hash of the sample that it varies; 0: none */
} Sample;
typedef struct SampleSet {
    char *name;                    /* the file, as given */
    double weight;                 /* how often an epoch shows each sample; 0.3: a part of them */
    Sample *v;
    size_t n;
    Ids ids;
    Buf learn, types;              /* a byte a token: 1 where it is to be learnt; its token type (encoders) */
    size_t learnt, longest;        /* tokens; of the longest sample */
    size_t truncated, dropped,
        duplicates;   /* samples cut at max_tokens; left out, without a word to learn; seen before */
} SampleSet;
typedef struct SampleReader {
    Task task;
    const Tokenizer *tok;
    const ChatTemplate *chat;      /* TASK_CHAT */
    int32_t opening;               /* the token that a plain text follows; -1: none */
    size_t max_tokens;             /* of a sample; plain texts go on in the next one, others are cut */
    StrList *labels;               /* TASK_CLASSIFY: the classes' names ... */
    bool new_labels;               /* ... which this set may add to */
    int variants;                  /* of each row, added to it: see [samples.augment] */
    uint64_t seed;                 /* they depend on it and on the row's number alone */
} SampleReader;

/* "FILE" or "FILE:WEIGHT" -> the file (a new string); *weight stays where none is given. */
char *sample_spec(const char *spec, double *weight);
/* Reads a .jsonl or .json file of rows, or plain text (.txt, a folder, corpus:BYTES). Rows: {"messages"}, ShareGPT's
 * {"conversations"}, {"instruction","input"?,"output"}, {"prompt","completion"} and its like, {"text"} (plain, or with
 * "label": a class); for TASK_DPO {"prompt","chosen","rejected"}, texts or lists of messages. Dies, naming file and
 * line, on what it does not understand. */
SampleSet *samples_read(const SampleReader *r, const char *path);
void samples_free(SampleSet *s);
/* Moves about a share of the samples to a new set: equal samples go together, and the choice depends on them alone.
 * Variants go with what they vary: out of this set, and not into the new one. NULL when too few samples are there. */
SampleSet *samples_hold_out(SampleSet *s, double share);
/* Sorts the classes' names (numbers by value) and renumbers the sets' labels. */
void labels_sort(StrList *labels, SampleSet **sets, int n);
/* Samples for people: the text with what is learnt in colour (on a terminal) or in double brackets. */
void samples_show(const SampleSet *s, const Tokenizer *tok, int n_samples);

/* ---- batches [samples.batch] ------------------------------------------------------------------------------------ *
 * A plan is the order of one pass over some sets: rows of one sample each, or of several in a row ("packed"). */
typedef struct { uint32_t set, i; } SampleRef;
typedef struct Plan {
    SampleRef *item;
    size_t n_items;
    size_t *row;                   /* (n_rows + 1) row r holds items row[r] .. row[r+1] - 1 */
    size_t n_rows;
    bool packed;
    bool second;                   /* batches are of the rejected conversations */
} Plan;
/* Epoch `epoch` of sets mixed by their weights: set s gives round(weight n) samples, each of its samples equally often
 * over the epochs, in an order that depends on (seed, epoch) alone. pack > 0: rows of at most so many tokens. Otherwise
 * rows of like length stand together, in groups of `batch`. */
Plan plan_epoch(SampleSet *const *sets, int n, uint64_t seed, uint64_t epoch, size_t pack, size_t batch);
Plan plan_in_order(SampleSet *const *sets, int n, size_t pack); /* each sample once, by length */
void plan_free(Plan *p);
size_t sample_inputs(const Sample *s);   /* tokens that the network reads: a text's last is only learnt */

/* Memory for batches of up to B rows of T tokens. */
typedef struct { int32_t *tokens, *targets, *types, *start, *len, *position; } BatchRoom;
BatchRoom batch_room(size_t B, size_t T);
void batch_room_free(BatchRoom *room);
/* Rows [first, first + B) of the plan. A packed row has T tokens; others as many as their longest sample. */
Batch plan_batch(const Plan *p, SampleSet *const *sets, size_t first, size_t B, size_t T, int32_t pad, bool types,
                 BatchRoom *room);
size_t batch_targets(const Batch *b, bool classes);                 /* how many there are to learn */
