/* corpus.c - the built-in corpus: little stories in English and in Chinese, facts, word problems, and word problems
 * answered by a program. It is what `make && ./train` learns from: a few hundred words a language, every document short
 * and of one piece, and more different documents than any run can read.
 *
 *     ./data/corpus --bytes 2000 --kind story-en                 read some (also: story-zh facts math pot all)
 *     ./data/corpus --bytes 100000000 --out corpus.txt           a file for ./train --data
 *     ./data/corpus --problems 200 --out heldout.jsonl           problems that training never showed, with answers
 *
 * Document i of (seed, split, kind) is a function of these alone: no state, no library rand, no floating point, so it
 * is the same with every compiler, in any order and on any thread.
 *
 * The split. What makes a document itself is its *combination*: of a story (language, plot, case, hero, second
 * character), of a problem (template, numbers; a bare sum is a template, too), of a fact (relation, subject, wording of
 * the question). A hash of the combination, not of the seed, puts one in VALID_ONE_IN into validation. Drawing goes on
 * until a combination of the wanted split comes up; so no combination is ever on both sides, whatever the seeds, while
 * each single word, name and number is met in training. A model does well on validation by recombining, not by
 * remembering.
 *
 * Map:  [corpus.grammar] expanding a template   [corpus.split] what is held out   [corpus.story]   [corpus.facts]
 *       [corpus.problems]   [corpus.mix] which kind comes next   [corpus.main] the program
 *
 * What this file refuses to do: anything clever about language. All that is said stands in corpus_words.h. */
#include "corpus_words.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* ---- expanding a template ------------------------------------------------------------------ [corpus.grammar] ---- *
 * Templates are read as they stand, since parsing them beforehand would need shared state. Cost: every alternative is
 * looked at once a level to find its end, about three bytes of grammar for one of text. */

#define SLOTS(X)                                                                                                       \
    X(hero) X(he) X(him) X(his) X(hers) X(himself) X(child) X(kind) X(pal) X(phe) X(phim) X(phis) X(pchild) X(pkind)   \
    X(elder) X(ehe) X(ehim) X(ehis) X(they) X(weather) X(part) X(a) X(b) X(c) X(d) X(e) X(f) X(s) X(v) X(x) X(y) X(z)  \
    X(q) X(r) X(t) X(m)
#define SLOT_ENUM(name) S_##name,
#define SLOT_NAME(name) #name,
enum { SLOTS(SLOT_ENUM) N_SLOTS };
static const char slot_names[N_SLOTS][8] = {SLOTS(SLOT_NAME)};

enum { DOC_BYTES = 8192, ALTERNATIVES = 16, NUMBER_BYTES = 12 };

typedef struct {
    uint64_t seed, counter;
    CorpusSplit split;
    bool skeleton;             /* print <hero> for what the slot holds: tests count the forms of sentences with it */
    const char *nouns;         /* fields to treat so; NULL: every one */
    const Rule *rules;
    int n_rules;
    const char *slots[N_SLOTS];
    char numbers[5][NUMBER_BYTES];
    uint64_t keys[CORPUS_KEYS];
    int n_keys;
    size_t len;
    char text[DOC_BYTES];
} Gen;

/* 0..n-1 without division or floating point; the bias, n in 2^32, is nothing here. Trap: never two draws among the
 * arguments of one call, whose order is the compiler's choice (gcc and clang then write different corpora). */
static int below(Gen *g, int n) { return (int)((rng_mix(g->seed, g->counter++) >> 32) * (uint64_t)n >> 32); }
static int between(Gen *g, int low, int high) { return low + below(g, high - low + 1); }

static void put(Gen *g, const char *s, size_t n) {
    assert(g->len + n <= DOC_BYTES);
    memcpy(g->text + g->len, s, n);
    g->len += n;
}
static void put_str(Gen *g, const char *s) { put(g, s, strlen(s)); }

/* From just behind an opening bracket to its closing one; notes where the alternatives begin. */
static const char *closing(const char *s, const char *starts[ALTERNATIVES + 1], int *n_alternatives) {
    int depth = 0, n = 0;
    starts[n++] = s;
    for (;; s++) {
        if (*s == '{' || *s == '[') depth++;
        else if (*s == '}' || *s == ']') {
            if (depth-- == 0) break;
        } else if (*s == '|' && !depth) {
            assert(n < ALTERNATIVES);
            starts[n++] = s + 1;
        }
        assert(*s);
    }
    starts[n] = s + 1; /* as if one more alternative began there: each ends one byte before the next begins */
    *n_alternatives = n;
    return s;
}

static void expand(Gen *g, const char *s, const char *end);
static void expand_str(Gen *g, const char *s) { expand(g, s, s + strlen(s)); }

/* s stands behind '<'; returns what follows '>'. */
static const char *expand_slot(Gen *g, const char *s) {
    bool capital = *s >= 'A' && *s <= 'Z', article = s[1] == 'n' && s[2] == ' ';
    size_t begin = g->len;
    if (article) put(g, "a ", 2), s += 3;
    size_t noun = g->len;
    char name[8] = {0};
    for (int i = 0; *s != '>'; i++, s++) {
        assert(i < 8);
        name[i] = *s;
    }
    if (capital && !article) name[0] |= 0x20;

    int slot = 0;
    while (slot < N_SLOTS && memcmp(slot_names[slot], name, 8)) slot++;
    const char *value = slot < N_SLOTS ? g->slots[slot] : NULL;
    bool is_list = slot < N_SLOTS && !(g->nouns && slot >= S_a && slot <= S_f && !strchr(g->nouns, name[0]));
    for (int i = 0; slot == N_SLOTS && i < g->n_rules && !value; i++)
        if (!memcmp(g->rules[i].name, name, 8)) value = g->rules[i].text, is_list = g->rules[i].list;
    if (!value) die("corpus: the grammar names <%.8s>, which this kind of document has not", name);

    if (g->skeleton && is_list) {
        put(g, "<", 1), put_str(g, slot < N_SLOTS ? slot_names[slot] : name), put(g, ">", 1);
        return s + 1;
    }
    expand_str(g, value);
    if (article && noun < g->len && strchr("aeiouAEIOU", g->text[noun])) { /* no list has an "hour" or a "unicorn" */
        put(g, " ", 1);
        memmove(g->text + noun, g->text + noun - 1, g->len - noun);
        g->text[noun - 1] = 'n';
    }
    if (capital && g->text[begin] >= 'a' && g->text[begin] <= 'z') g->text[begin] &= (char)~0x20;
    return s + 1;
}

static void expand(Gen *g, const char *s, const char *end) {
    while (s < end) {
        const char *starts[ALTERNATIVES + 1], *plain = s;
        int n;
        while (s < end && *s != '{' && *s != '[' && *s != '<' && *s != '`') s++;
        put(g, plain, (size_t)(s - plain));
        if (s == end) return;
        char mark = *s++;
        if (mark == '`') put(g, "\"", 1);
        else if (mark == '<') s = expand_slot(g, s);
        else {
            s = closing(s, starts, &n) + 1;
            int chosen = below(g, mark == '{' ? n : 2);
            if (mark == '{') expand(g, starts[chosen], starts[chosen + 1] - 1);
            else if (chosen) expand(g, starts[0], starts[n] - 1);
        }
    }
}

/* ---- the split ------------------------------------------------------------------------------- [corpus.split] ---- */

enum { VALID_ONE_IN = 16 };
enum { KEY_STORY, KEY_FACT, KEY_PROBLEM };

static uint64_t key_of(uint64_t what, int a, int b, int c, int d, int e) {
    const int parts[] = {a, b, c, d, e};
    uint64_t key = what;
    for (int i = 0; i < COUNT(parts); i++) key = rng_mix(key, (uint64_t)parts[i]);
    return key;
}

/* Whether the combination is on the side this document wants; if so, it is the document's. */
static bool claim(Gen *g, uint64_t key) {
    if ((key % VALID_ONE_IN == 0) != (g->split == CORPUS_VALID)) return false;
    assert(g->n_keys < CORPUS_KEYS);
    g->keys[g->n_keys++] = key;
    return true;
}

/* ---- people ---------------------------------------------------------------------------------- [corpus.story] ---- */

typedef struct {
    const char *const *names, *const *elders, *const *kinds, *const *weathers, *const *parts;
    int n_names, n_elders, n_kinds, n_weathers, n_parts;
    const Rule *rules;
    int n_rules;
    const Plot *plots;
    int n_plots;
    const char *pronouns[3][5]; /* girl, boy, animal; he him his hers himself */
    const char *they[3];        /* two girls or women; anyone else; animals */
    const char *child[2], *space, *question, *answer, *program;
} Language;
#define LANGUAGE(code)                                                                                                 \
    names_##code, elders_##code, kinds_##code, weathers_##code, parts_##code, COUNT(names_##code),                     \
    COUNT(elders_##code), COUNT(kinds_##code), COUNT(weathers_##code), COUNT(parts_##code), rules_##code,              \
    COUNT(rules_##code), plots_##code, COUNT(plots_##code)
static const Language languages[] = {
    {LANGUAGE(en),
     {{"she", "her", "her", "hers", "herself"}, {"he", "him", "his", "his", "himself"}, {NULL}},
     {"they", "they", "they"}, {"girl", "boy"}, " ", "Question: ", "\nAnswer: ", "\nProgram:\n"},
    {LANGUAGE(zh),
     {{"她", "她", "她的", "她的", "自己"}, {"他", "他", "他的", "他的", "自己"}, {"它", "它", "它的", "它的", "自己"}},
     {"她们", "他们", "它们"}, {"女孩", "男孩"}, "", "问：", "\n答：", "\n程序：\n"},
};
enum { PRONOUN_ANIMAL = 2 };

/* Even names and elders are female, odd ones male. In English an animal with a name is he or she; in Chinese 它. */
static void set_people(Gen *g, const Language *l, int hero, int pal, int elder, Second second, bool animals) {
    const char **slots = g->slots;
    bool it = animals && l->pronouns[PRONOUN_ANIMAL][0];
    const char *const *p = l->pronouns[it ? PRONOUN_ANIMAL : hero & 1];
    slots[S_hero] = l->names[hero], slots[S_child] = l->child[hero & 1];
    slots[S_he] = p[0], slots[S_him] = p[1], slots[S_his] = p[2], slots[S_hers] = p[3], slots[S_himself] = p[4];
    p = l->pronouns[it ? PRONOUN_ANIMAL : pal & 1];
    slots[S_pal] = l->names[pal], slots[S_pchild] = l->child[pal & 1];
    slots[S_phe] = p[0], slots[S_phim] = p[1], slots[S_phis] = p[2];
    p = l->pronouns[elder & 1];
    slots[S_elder] = l->elders[elder];
    slots[S_ehe] = p[0], slots[S_ehim] = p[1], slots[S_ehis] = p[2];
    slots[S_they] = l->they[it ? PRONOUN_ANIMAL : (hero | (second == PAL ? pal : elder)) & 1];
}

static int other_than(Gen *g, int taken, int n) { return (taken + 1 + below(g, n - 1)) % n; }

static bool begins(const Gen *g, size_t at, int slot) {
    size_t n = strlen(g->slots[slot]);
    return g->len - at >= n && !memcmp(g->text + at, g->slots[slot], n);
}

static void write_story(Gen *g, const Language *l) {
    const Plot *plot;
    int n_plot, n_case, hero, pal, elder;
    uint64_t language = (uint64_t)(l - languages);
    do {
        do n_plot = below(g, l->n_plots), plot = &l->plots[n_plot];
        while (plot->second == PAL && below(g, 2)); /* two names are much harder to keep apart than one to keep */
        n_case = below(g, plot->n_cases);
        hero = below(g, l->n_names), pal = other_than(g, hero, l->n_names);
        elder = below(g, l->n_elders);
    } while (!claim(g, key_of(KEY_STORY + 16 * language, n_plot, n_case, hero, plot->second == PAL ? pal : -1,
                              plot->second == ELDER ? elder : -1)));
    g->nouns = plot->nouns;
    set_people(g, l, hero, pal, elder, plot->second, plot->animals);
    int kind = below(g, l->n_kinds);
    g->slots[S_kind] = l->kinds[kind], g->slots[S_pkind] = l->kinds[other_than(g, kind, l->n_kinds)];
    g->slots[S_weather] = l->weathers[below(g, l->n_weathers)];
    g->slots[S_part] = l->parts[below(g, l->n_parts)];
    for (int i = 0; i < N_FIELDS; i++) g->slots[S_a + i] = plot->cases[n_case][i];

    if (below(g, 6) == 0) expand_str(g, plot->title), put_str(g, "\n");
    int paragraph = between(g, 2, 7); /* a new one before beat 2, 3 or 4; else none */
    for (int i = 0; i < COUNT(plot->beats) && plot->beats[i]; i++) {
        size_t begin = g->len;
        if (i) put_str(g, i == paragraph && i < 5 ? "\n" : l->space);
        expand_str(g, plot->beats[i]);
        /* At a line's start an English name would lack its blank: another token, which looks like another name. */
        if (i && g->text[begin] == '\n' && *l->space && (begins(g, begin + 1, S_hero) || begins(g, begin + 1, S_pal)))
            g->text[begin] = *l->space;
    }
    put_str(g, "\n");
}

/* ---- facts ----------------------------------------------------------------------------------- [corpus.facts] ---- */

static void set_fact(Gen *g, const Relation *relation, int pair) {
    g->slots[S_s] = relation->pairs[pair][0], g->slots[S_v] = relation->pairs[pair][1];
}

static void write_question(Gen *g, const Relation *relation, int pair, int wording) {
    const Language *l = &languages[relation->zh];
    set_fact(g, relation, pair);
    put_str(g, l->question), expand_str(g, relation->ask[wording]);
    put_str(g, l->answer), expand_str(g, relation->answer), put_str(g, "\n");
}

/* Half the documents tell two or three facts of one relation and ask for one of them: reading. The others only ask:
 * remembering. */
static void write_facts(Gen *g) {
    int n_relation, pair, wording, n_questions = 1;
    const Relation *relation;
    bool zh = below(g, 10) < 4, tell = below(g, 2);
    if (!tell) n_questions = between(g, 1, 3);
    for (int i = 0; i < n_questions; i++) {
        do {
            n_relation = below(g, COUNT(relations)), relation = &relations[n_relation];
            pair = below(g, relation->n_pairs), wording = below(g, N_ASK);
        } while (relation->zh != zh || !claim(g, key_of(KEY_FACT, n_relation, pair, wording, 0, 0)));
        if (tell) {
            int n_told = between(g, 2, 3), asked = below(g, n_told);
            /* neighbours in the table, so that the facts told are different ones and the one asked for is among them */
            for (int k = 0; k < n_told; k++) {
                set_fact(g, relation, (pair + relation->n_pairs + k - asked) % relation->n_pairs);
                if (k) put_str(g, languages[zh].space);
                expand_str(g, relation->state);
            }
            put_str(g, "\n");
        }
        write_question(g, relation, pair, wording);
    }
}

/* ---- problems ----------------------------------------------------------------------------- [corpus.problems] ---- */

static void set_number(Gen *g, int i, int value) {
    char digits[NUMBER_BYTES], *d = digits + NUMBER_BYTES - 1;
    *d = 0;
    do *--d = (char)('0' + value % 10);
    while (value /= 10);
    g->slots[S_x + i] = memcpy(g->numbers[i], d, (size_t)(digits + NUMBER_BYTES - d));
}

/* Numbers with a whole result r of 2 or more; q is what the first of two steps gives. */
typedef struct { int x, y, z, q, r; } Numbers;
static Numbers draw_numbers(Gen *g, Operation op) {
    int a = between(g, 2, 9), b = between(g, 2, 9), c = between(g, 2, 9);
    switch (op) {
    case ADD: a = between(g, 2, 20), b = between(g, 2, 20); return (Numbers){a, b, 0, 0, a + b};
    case SUB: a = between(g, 2, 15), b = between(g, 2, 15); return (Numbers){a + b, a, 0, 0, b};
    case MUL: return (Numbers){a, b, 0, 0, a * b};
    case DIV: return (Numbers){a * b, a, 0, 0, b};
    case ADD_ADD: return (Numbers){a, b, c, a + b, a + b + c};
    case ADD_SUB: a = between(g, 2, 15), c = between(g, 2, a + b - 2); return (Numbers){a, b, c, a + b, a + b - c};
    case MUL_ADD: a = between(g, 2, 6); return (Numbers){a, b, c, a * b, a * b + c};
    case MUL_SUB: a = between(g, 2, 6), b = between(g, 6, 9); return (Numbers){a, b, c, a * b, a * b - c};
    case SUB_DIV: b = between(g, 2, 5), c = between(g, 2, 6); return (Numbers){a + b * c, a, b, b * c, c};
    case TWICE_ADD: return (Numbers){a, b, 0, a + b, a + a + b};
    case CHANGE: return (Numbers){a, b, a + b + c, a + b, c};
    case OPERATIONS: break;
    }
    assert(!"an operation without numbers");
    return (Numbers){0};
}

static void set_numbers(Gen *g, Numbers n) {
    const int values[] = {n.x, n.y, n.z, n.q, n.r}; /* in the order of their slots */
    for (int i = 0; i < COUNT(values); i++) set_number(g, i, values[i]);
}

/* Draws a problem and fills its slots; its text is then expanded piece by piece. */
static const Problem *draw_problem(Gen *g) {
    const Problem *problem;
    int n_problem;
    Numbers n;
    do {
        n_problem = below(g, COUNT(problems)), problem = &problems[n_problem];
        n = draw_numbers(g, problem->op);
    } while (!claim(g, key_of(KEY_PROBLEM, n_problem, n.x, n.y, n.z, 0)));
    const Language *l = &languages[problem->zh];
    int hero = below(g, l->n_names), pal = other_than(g, hero, l->n_names), elder = below(g, l->n_elders);
    set_people(g, l, hero, pal, elder, PAL, false);
    const Thing *thing = problem->zh ? &things_zh[below(g, COUNT(things_zh))] : &things_en[below(g, COUNT(things_en))];
    g->slots[S_t] = thing->name, g->slots[S_m] = thing->measure, g->slots[S_v] = thing->variable;
    set_numbers(g, n);
    return problem;
}

static void write_answer(Gen *g, const Problem *problem) { /* "#### n" ends the answer, as in GSM8K */
    expand_str(g, problem->reason), put_str(g, " #### "), put_str(g, g->slots[S_r]);
}

/* A page of sums: a word problem spends fifty tokens on a calculation, this one six, and tables are learnt by heart. */
static void write_sums(Gen *g) {
    put_str(g, below(g, 2) ? "Sums:" : "算式：");
    for (int i = 0; i < CORPUS_KEYS; i++) {
        int op;
        Numbers n;
        do op = below(g, OPERATIONS), n = draw_numbers(g, (Operation)op);
        while (!claim(g, key_of(KEY_PROBLEM, COUNT(problems) + op, n.x, n.y, n.z, 0)));
        set_numbers(g, n);
        if (i) put_str(g, ",");
        expand_str(g, sums[op]);
    }
    put_str(g, ".\n");
}

static void write_problem(Gen *g, bool program) {
    const Problem *problem = draw_problem(g);
    const Language *l = &languages[problem->zh];
    put_str(g, l->question), expand_str(g, problem->question);
    if (program) put_str(g, l->program), expand_str(g, problem->program);
    else put_str(g, l->answer), write_answer(g, problem), put_str(g, "\n");
}

/* ---- the mix ----------------------------------------------------------------------------------- [corpus.mix] ---- *
 * Shares are stated in bytes and paid in documents: mix.per_mille over the mean length of the kind's documents. */

static const struct { CorpusKind kind; int per_mille, mean_bytes; } mix[] = {
    {CORPUS_STORY_EN, 400, 741}, {CORPUS_STORY_ZH, 280, 726}, {CORPUS_FACTS, 60, 151}, {CORPUS_MATH, 140, 170},
    {CORPUS_POT, 120, 168}};

static CorpusKind draw_kind(Gen *g) {
    int total = 0, weights[COUNT(mix)];
    for (int i = 0; i < COUNT(mix); i++) total += weights[i] = mix[i].per_mille * 10000 / mix[i].mean_bytes;
    int at = below(g, total), i = 0;
    while (at >= weights[i]) at -= weights[i++];
    return mix[i].kind;
}

static void begin(Gen *g, uint64_t seed, CorpusSplit split, CorpusKind kind, uint64_t i) {
    memset(g, 0, offsetof(Gen, text));
    g->seed = rng_mix(rng_mix(seed, (uint64_t)split * CORPUS_KINDS + (uint64_t)kind), i);
    g->split = split;
}

static void generate(Gen *g, CorpusKind kind) {
    if (kind == CORPUS_ALL) kind = draw_kind(g);
    const Language *l = &languages[kind == CORPUS_STORY_ZH];
    g->rules = l->rules, g->n_rules = l->n_rules;
    switch (kind) {
    case CORPUS_FACTS: write_facts(g); break;
    case CORPUS_MATH: below(g, 4) ? write_problem(g, false) : write_sums(g); break;
    case CORPUS_POT: write_problem(g, true); break;
    default: write_story(g, l);
    }
}

void corpus_document(uint64_t seed, CorpusSplit split, CorpusKind kind, uint64_t i, Buf *out) {
    Gen g;
    begin(&g, seed, split, kind, i);
    generate(&g, kind);
    buf_add(out, g.text, g.len);
}

int corpus_inspect(uint64_t seed, CorpusSplit split, CorpusKind kind, uint64_t i, Buf *skeleton, uint64_t *keys) {
    Gen g;
    begin(&g, seed, split, kind, i);
    g.skeleton = skeleton != NULL;
    generate(&g, kind);
    if (skeleton) buf_add(skeleton, g.text, g.len);
    memcpy(keys, g.keys, sizeof g.keys);
    return g.n_keys;
}

void corpus_problem(uint64_t seed, CorpusSplit split, uint64_t i, Buf *json_line) {
    Gen g;
    begin(&g, seed, split, CORPUS_POT, i);
    const Problem *problem = draw_problem(&g);
    const char *field[] = {"{\"question\":\"", "\",\"answer\":\"", "\",\"program\":\""};
    for (int k = 0; k < COUNT(field); k++) {
        g.len = 0;
        if (k == 0) expand_str(&g, problem->question);
        else if (k == 1) write_answer(&g, problem);
        else expand_str(&g, problem->program);
        buf_str(json_line, field[k]);
        json_escape(json_line, g.text, g.len);
    }
    buf_str(json_line, "\"}\n");
}

/* ---- the program ------------------------------------------------------------------------------ [corpus.main] ---- */
#ifdef CORPUS_MAIN

static int one_of(const char *word, const char *const *words) {
    int i = 0;
    while (strcmp(words[i], word)) i++; /* options_parse has refused anything else */
    return i;
}

int main(int argc, char **argv) {
    int64_t bytes = 1000000, seed = 0, n_problems = 0;
    const char *split_word = "train", *kind_word = "all", *out_path = NULL;
    Opt table[] = {
        {"bytes", OPT_INT, &bytes, "about how much text (whole documents)", 1, 9e15, NULL, NULL, false},
        {"seed", OPT_INT, &seed, "another seed, other documents; the split stays", 0, 9e15, NULL, NULL, false},
        {"split", OPT_STR, &split_word, "which combinations (--problems: valid)", 0, 0, "train|valid", NULL, false},
        {"kind", OPT_STR, &kind_word, "what to write", 0, 0, "all|story-en|story-zh|facts|math|pot", NULL, false},
        {"problems", OPT_INT, &n_problems, "write this many problems as JSON lines instead", 0, 1e9, NULL, NULL, false},
        {"out", OPT_STR, &out_path, "where to (default: standard output)", 0, 0, NULL, NULL, false},
    };
    options_parse(argc, argv, 1, "corpus - writes the built-in corpus: stories, facts, problems, programs.", table,
                  COUNT(table));
    static const char *const splits[] = {"train", "valid"};
    static const char *const kinds[] = {"all", "story-en", "story-zh", "facts", "math", "pot"};
    if (n_problems && !option_given(table, COUNT(table), "split")) split_word = "valid";
    CorpusSplit split = (CorpusSplit)one_of(split_word, splits);
    CorpusKind kind = (CorpusKind)one_of(kind_word, kinds);

    OutFile file = {0};
    if (out_path) file = out_open(out_path);
    Buf doc = {0};
    int64_t written = 0;
    for (uint64_t i = 0; n_problems ? i < (uint64_t)n_problems : written < bytes; i++) {
        doc.len = 0;
        if (n_problems) corpus_problem((uint64_t)seed, split, i, &doc);
        else {
            if (i) buf_str(&doc, "<|endoftext|>\n");
            corpus_document((uint64_t)seed, split, kind, i, &doc);
        }
        if (out_path) out_write(&file, doc.data, doc.len);
        else if (fwrite(doc.data, 1, doc.len, stdout) != doc.len) die("standard output: %s", strerror(errno));
        written += (int64_t)doc.len;
    }
    if (out_path) out_close(&file);
    else if (fflush(stdout)) die("standard output: %s", strerror(errno));
    buf_free(&doc);
    return 0;
}
#endif
