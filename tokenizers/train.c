/* train.c - learning a vocabulary: counting words, then merging the most frequent pair, thousands of times.
 *
 * BPE keeps the list of merges; WordPiece keeps only what they made, and starts from characters instead of bytes. The
 * counting and the merging are the same. */
#include "split.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* [tok.train] learning the merges ----------------------------------------------------------------------------------- *
 * Two steps. Count the distinct words of the corpus: however large it is, they are few (memory follows their number,
 * not the corpus). Then, with each word a row of symbols: find the pair of neighbours with the highest count, make it
 * a token, replace it in every word that has it, correct the counts around it, repeat.
 *
 * The result is that of Hugging Face's BpeTrainer to the last byte of the file, which takes care in three places:
 *   - ties go to the pair with the smaller ids;
 *   - the count of a pair that has been merged is never taken back, and the counts in "aaa" (two overlapping pairs)
 *     change in the order in which the replacement walks the word;
 *   - a pair may make a token that exists (a special one: "the" from t + he). It keeps its id, and the pairs around it
 *     may stand in the queue more than once, each entry with the words found since the one before. */

/* Step 1: how often does each word occur? */
typedef struct { uint64_t hash; int64_t count; size_t at; uint32_t n; } Word;
typedef struct { Word *v; size_t n, cap; uint64_t *slot; size_t n_slots; Buf pool, norm; } WordTable;

static void words_count(WordTable *w, const uint8_t *s, size_t n, uint64_t hash, int64_t count) {
    if (w->n * 2 >= w->n_slots) {
        w->n_slots = w->n_slots ? w->n_slots * 2 : 1 << 14;
        free(w->slot);
        w->slot = xcalloc(w->n_slots, sizeof *w->slot);
        for (size_t k = 0; k < w->n; k++) {
            size_t i = w->v[k].hash & (w->n_slots - 1);
            while (w->slot[i]) i = (i + 1) & (w->n_slots - 1);
            w->slot[i] = k + 1;
        }
    }
    size_t i = hash & (w->n_slots - 1);
    for (; w->slot[i]; i = (i + 1) & (w->n_slots - 1)) {
        Word *e = &w->v[w->slot[i] - 1];
        if (e->hash == hash && e->n == n && !memcmp(w->pool.data + e->at, s, n)) {
            e->count += count;
            return;
        }
    }
    if (n > INT32_MAX) die("one word of the training text is %zu bytes long; at most %d are possible", n, INT32_MAX);
    if (w->n == w->cap) {
        w->cap = w->cap ? w->cap * 2 : 4096;
        w->v = xrealloc(w->v, size_mul(w->cap, sizeof *w->v));
    }
    w->v[w->n] = (Word){hash, count, w->pool.len, (uint32_t)n};
    buf_add(&w->pool, s, n);
    w->slot[i] = ++w->n;
}

static void words_free(WordTable *w) {
    free(w->v);
    free(w->slot);
    buf_free(&w->pool);
    buf_free(&w->norm);
}

typedef struct { Split split; const BertNorm *bert; } WordRule; /* bert: in place of split, unless NULL */

static void count_text(WordTable *w, WordRule rule, const uint8_t *p, const uint8_t *end) {
    if (rule.bert) {
        w->norm.len = 0;
        bert_normalize(*rule.bert, p, (size_t)(end - p), &w->norm);
        const uint8_t *s = (const uint8_t *)w->norm.data;
        Piece piece[64];
        for (size_t at = 0, n; (n = bert_split(s, w->norm.len, &at, piece, 64)) > 0;)
            for (size_t i = 0; i < n; i++) {
                size_t len = piece[i].to - piece[i].from;
                words_count(w, s + piece[i].from, len, hash_bytes(s + piece[i].from, len), 1);
            }
        return;
    }
    for (const uint8_t *next; p < end; p = next) {
        next = word_end(rule.split, p, end);
        words_count(w, p, (size_t)(next - p), hash_bytes(p, (size_t)(next - p)), 1);
    }
}

/* Where a long text can be cut for another thread: between a letter and a blank or line break there is always a
 * border of words, and the rules look only forward from it. */
static const uint8_t *safe_cut(const uint8_t *p, const uint8_t *end) {
    for (; p < end; p++) {
        uint8_t before = p[-1] | 0x20;
        if ((*p == ' ' || *p == '\n') && before >= 'a' && before <= 'z') return p;
    }
    return end;
}

typedef struct { const uint8_t *from, *to; } Stretch;
enum { PIECE_BYTES = 1 << 18, BATCH_BYTES = 1 << 25 };

/* Sums are per word and order plays no part, so the threads' tables can be added up in any order. */
static void count_stretches(WordTable *tables, WordRule rule, const Stretch *stretch, int n) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 0; i < n; i++) {
#ifdef _OPENMP
        count_text(&tables[omp_get_thread_num()], rule, stretch[i].from, stretch[i].to);
#else
        count_text(&tables[0], rule, stretch[i].from, stretch[i].to);
#endif
    }
}

typedef struct { size_t from, to; } Range; /* of a batch that may still move as it grows */
typedef struct { Range *v; size_t n, cap; } Ranges;

static void cut_document(Ranges *r, const uint8_t *base, size_t from, size_t to) {
    while (from < to) {
        size_t stop = to - from <= PIECE_BYTES ? to : (size_t)(safe_cut(base + from + PIECE_BYTES, base + to) - base);
        if (r->n == r->cap) {
            r->cap = r->cap ? r->cap * 2 : 256;
            r->v = xrealloc(r->v, size_mul(r->cap, sizeof *r->v));
        }
        r->v[r->n++] = (Range){from, stop};
        from = stop;
    }
}

static void count_batch(WordTable *tables, WordRule rule, const uint8_t *base, Ranges *r) {
    Stretch *stretch = xmalloc(size_mul(r->n + 1, sizeof *stretch));
    for (size_t i = 0; i < r->n; i++) stretch[i] = (Stretch){base + r->v[i].from, base + r->v[i].to};
    if (r->n > INT_MAX) die("too many documents in one batch");
    count_stretches(tables, rule, stretch, (int)r->n);
    free(stretch);
    r->n = 0;
}

static WordTable count_words(TextSource src, WordRule rule) {
    int n_threads = 1;
#ifdef _OPENMP
    n_threads = omp_get_max_threads();
#endif
    WordTable *tables = xcalloc((size_t)n_threads, sizeof *tables);
    Buf batch = {0};
    Ranges ranges = {0};
    Progress bar = progress_begin("counting words", src.total_bytes);
    double bytes = 0;
    for (;;) {
        size_t n = 0;
        const char *text = src.next(src.state, &n);
        if (text && n >= BATCH_BYTES) { /* a document as large as a batch is counted where it lies */
            Ranges own = {0};
            cut_document(&own, (const uint8_t *)text, 0, n);
            count_batch(tables, rule, (const uint8_t *)text, &own);
            free(own.v);
        } else if (text) { /* copied: it is valid only until the next one */
            size_t from = batch.len;
            buf_add(&batch, text, n);
            cut_document(&ranges, (const uint8_t *)batch.data, from, batch.len);
        }
        if (text) bytes += (double)n;
        if (!text || batch.len >= BATCH_BYTES) {
            count_batch(tables, rule, (const uint8_t *)batch.data, &ranges);
            batch.len = 0;
            progress_at(&bar, bytes, "%s", human_bytes(bytes));
        }
        if (!text) break;
    }
    WordTable all = tables[0];
    for (int k = 1; k < n_threads; k++) {
        for (size_t i = 0; i < tables[k].n; i++) {
            const Word *e = &tables[k].v[i];
            words_count(&all, (const uint8_t *)tables[k].pool.data + e->at, e->n, e->hash, e->count);
        }
        words_free(&tables[k]);
    }
    free(tables);
    free(ranges.v);
    buf_free(&batch);
    progress_end(&bar, "%s distinct words in %s", human_count((double)all.n), human_bytes(bytes));
    return all;
}

/* Step 2. Words as rows of symbols; pairs with their counts; a queue of the pairs to come. */
typedef struct { uint32_t *v, n, cap; } WordList;
typedef struct { uint64_t pair; int64_t count; WordList fresh; } Pair; /* fresh: words where it arose this round */
typedef struct { int64_t count; uint64_t pair; uint32_t index; WordList words; } Candidate;

typedef struct {
    int32_t *symbol;                             /* all words' symbols in a row */
    size_t *start;                               /* [n_words] */
    uint32_t *length;                            /* [n_words], shrinking */
    int64_t *count;                              /* [n_words] */
    Pair *pair;
    size_t n_pairs, pairs_cap, n_slots;
    uint32_t *slot;                              /* index + 1 into pair */
    Candidate *queue;
    size_t n_queue, queue_cap;
    uint32_t *arisen;                            /* pairs with a fresh list */
    size_t n_arisen, arisen_cap;
    /* One merge changes at most four pairs per neighbouring symbol: (p,a) and (b,n) go, (p,ab) and (ab,n) come. Their
     * places are looked up once per merge and neighbour, not once per occurrence: that is the difference between
     * minutes and seconds. known[k][symbol] is right when stamp[k][symbol] is this round's. */
    uint32_t *known[4], *stamp[4], round;
} Trainer;
enum { LEFT_OLD, LEFT_NEW, RIGHT_OLD, RIGHT_NEW };

static uint32_t pair_index(Trainer *tr, uint64_t pair) {
    if (tr->n_pairs * 2 >= tr->n_slots) {
        tr->n_slots = tr->n_slots ? tr->n_slots * 2 : 1 << 16;
        free(tr->slot);
        tr->slot = xcalloc(tr->n_slots, sizeof *tr->slot);
        for (size_t k = 0; k < tr->n_pairs; k++) {
            size_t i = mix(tr->pair[k].pair) & (tr->n_slots - 1);
            while (tr->slot[i]) i = (i + 1) & (tr->n_slots - 1);
            tr->slot[i] = (uint32_t)k + 1;
        }
    }
    size_t i = mix(pair) & (tr->n_slots - 1);
    for (; tr->slot[i]; i = (i + 1) & (tr->n_slots - 1))
        if (tr->pair[tr->slot[i] - 1].pair == pair) return tr->slot[i] - 1;
    if (tr->n_pairs == tr->pairs_cap) {
        tr->pairs_cap = tr->pairs_cap ? tr->pairs_cap * 2 : 1 << 14;
        tr->pair = xrealloc(tr->pair, size_mul(tr->pairs_cap, sizeof *tr->pair));
    }
    if (tr->n_pairs >= UINT32_MAX - 1) die("too many different pairs to train on");
    tr->pair[tr->n_pairs] = (Pair){.pair = pair};
    tr->slot[i] = (uint32_t)++tr->n_pairs;
    return (uint32_t)tr->n_pairs - 1;
}

static void pair_arises_in(Trainer *tr, uint32_t index, uint32_t word) {
    WordList *l = &tr->pair[index].fresh;
    if (!l->n) {
        if (tr->n_arisen == tr->arisen_cap) {
            tr->arisen_cap = tr->arisen_cap ? tr->arisen_cap * 2 : 1024;
            tr->arisen = xrealloc(tr->arisen, size_mul(tr->arisen_cap, sizeof *tr->arisen));
        }
        tr->arisen[tr->n_arisen++] = index;
    } else if (l->v[l->n - 1] == word) return; /* words come one after the other: a repetition is the last */
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 4;
        l->v = xrealloc(l->v, sizeof *l->v * (size_t)l->cap);
    }
    l->v[l->n++] = word;
}

static bool goes_first(const Candidate *x, const Candidate *y) {
    return x->count != y->count ? x->count > y->count : x->pair < y->pair;
}

static void queue_sink(Candidate *q, size_t n, size_t i) {
    Candidate x = q[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && goes_first(&q[child + 1], &q[child])) child++;
        if (!goes_first(&q[child], &x)) break;
        q[i] = q[child];
    }
    q[i] = x;
}

static void queue_push(Trainer *tr, Candidate x) {
    if (tr->n_queue == tr->queue_cap) {
        tr->queue_cap = tr->queue_cap ? tr->queue_cap * 2 : 1 << 14;
        tr->queue = xrealloc(tr->queue, size_mul(tr->queue_cap, sizeof *tr->queue));
    }
    size_t i = tr->n_queue++;
    for (; i && goes_first(&x, &tr->queue[(i - 1) / 2]); i = (i - 1) / 2) tr->queue[i] = tr->queue[(i - 1) / 2];
    tr->queue[i] = x;
}

static void queue_arisen(Trainer *tr) {
    for (size_t k = 0; k < tr->n_arisen; k++) {
        Pair *p = &tr->pair[tr->arisen[k]];
        if (p->count > 0) queue_push(tr, (Candidate){p->count, p->pair, tr->arisen[k], p->fresh});
        else free(p->fresh.v); /* came and went within one word, as (A,a) does when aaaa becomes AA */
        p->fresh = (WordList){0};
    }
    tr->n_arisen = 0;
}

static inline void pair_change(Trainer *tr, int which, int32_t neighbour, uint64_t pair, int64_t change,
                               uint32_t word) {
    if (tr->stamp[which][neighbour] != tr->round) {
        tr->stamp[which][neighbour] = tr->round;
        tr->known[which][neighbour] = pair_index(tr, pair);
    }
    uint32_t index = tr->known[which][neighbour];
    tr->pair[index].count += change;
    if (change > 0) pair_arises_in(tr, index, word);
}

/* Replaces a b by ab in one word, left to right. The left neighbour is what has been written already, so in "abab" the
 * second ab has an ab to its left. */
static void merge_in_word(Trainer *tr, uint32_t word, int32_t a, int32_t b, int32_t ab) {
    int32_t *s = tr->symbol + tr->start[word];
    uint32_t n = tr->length[word], to = 0;
    int64_t count = tr->count[word];
    for (uint32_t i = 0; i < n;) {
        if (s[i] != a || i + 1 == n || s[i + 1] != b) {
            s[to++] = s[i++];
            continue;
        }
        if (to > 0) {
            int32_t left = s[to - 1];
            pair_change(tr, LEFT_OLD, left, pair_of(left, a), -count, word);
            pair_change(tr, LEFT_NEW, left, pair_of(left, ab), count, word);
        }
        if (i + 2 < n) {
            int32_t right = s[i + 2];
            pair_change(tr, RIGHT_OLD, right, pair_of(b, right), -count, word);
            pair_change(tr, RIGHT_NEW, right, pair_of(ab, right), count, word);
        }
        s[to++] = ab;
        i += 2;
    }
    tr->length[word] = to;
}

/* The symbols that a word of n bytes starts from, into out (n places); returns how many. */
typedef uint32_t (*SymbolsFn)(const void *alphabet, const uint8_t *word, uint32_t n, int32_t *out);

static uint32_t byte_symbols(const void *alphabet, const uint8_t *word, uint32_t n, int32_t *out) {
    const int32_t *byte_id = alphabet;
    for (uint32_t k = 0; k < n; k++) out[k] = byte_id[word[k]];
    return n;
}

static void trainer_begin(Trainer *tr, const WordTable *w, SymbolsFn symbols, const void *alphabet, int max_ids) {
    tr->start = xmalloc(size_mul(w->n + 1, sizeof *tr->start));
    tr->length = xmalloc(size_mul(w->n + 1, sizeof *tr->length));
    tr->count = xmalloc(size_mul(w->n + 1, sizeof *tr->count));
    tr->symbol = xmalloc(size_mul(w->pool.len + 1, sizeof *tr->symbol));
    if (w->n >= UINT32_MAX) die("%zu distinct words are more than training can hold", w->n);
    for (int k = 0; k < 4; k++) {
        tr->known[k] = xcalloc((size_t)max_ids, sizeof *tr->known[k]);
        tr->stamp[k] = xcalloc((size_t)max_ids, sizeof *tr->stamp[k]);
    }
    for (uint32_t i = 0; i < (uint32_t)w->n; i++) {
        const Word *e = &w->v[i];
        int32_t *s = tr->symbol + e->at;
        uint32_t n = symbols(alphabet, (const uint8_t *)w->pool.data + e->at, e->n, s);
        tr->start[i] = e->at, tr->length[i] = n, tr->count[i] = e->count;
        for (uint32_t k = 0; k + 1 < n; k++) {
            uint32_t index = pair_index(tr, pair_of(s[k], s[k + 1]));
            tr->pair[index].count += e->count;
            pair_arises_in(tr, index, i);
        }
    }
    queue_arisen(tr);
}

static void trainer_free(Trainer *tr) {
    for (size_t i = 0; i < tr->n_queue; i++) free(tr->queue[i].words.v);
    for (int k = 0; k < 4; k++) free(tr->known[k]), free(tr->stamp[k]);
    free(tr->symbol);
    free(tr->start);
    free(tr->length);
    free(tr->count);
    free(tr->pair);
    free(tr->slot);
    free(tr->queue);
    free(tr->arisen);
}

typedef struct { uint64_t *v; size_t n, cap; } MergeList;

/* Fills names up to `vocab` tokens and lists the merges in the order learnt. inside: how a token that continues a word
 * begins ("##"); what two tokens make is spelt without the second one's. */
static MergeList learn_merges(Trainer *tr, Vocab *names, int vocab, int64_t min_frequency, const char *inside) {
    MergeList merges = {0};
    Buf joined = {0};
    Progress bar = progress_begin("merging pairs", vocab);
    while (names->n_ids < (size_t)vocab && tr->n_queue) {
        Candidate top = tr->queue[0];
        int64_t now = tr->pair[top.index].count;
        if (top.count != now) { /* its count changed since it was queued: back with it, look again */
            tr->queue[0].count = now;
            queue_sink(tr->queue, tr->n_queue, 0);
            continue;
        }
        if (top.count < 1 || top.count < min_frequency) break;
        tr->queue[0] = tr->queue[--tr->n_queue];
        if (tr->n_queue) queue_sink(tr->queue, tr->n_queue, 0);

        int32_t a = (int32_t)(top.pair >> 32), b = (int32_t)(uint32_t)top.pair;
        joined.len = 0;
        buf_add(&joined, vocab_str(names, a), names->spelling[a].n);
        size_t n_inside = strlen(inside), n_b = names->spelling[b].n;
        if (n_b < n_inside || memcmp(vocab_str(names, b), inside, n_inside)) n_inside = 0;
        buf_add(&joined, vocab_str(names, b) + n_inside, n_b - n_inside);
        int32_t ab = vocab_find(names, joined.data, joined.len);
        if (ab < 0) {
            ab = (int32_t)names->n_ids;
            vocab_add(names, joined.data, joined.len, (uint32_t)ab);
        }
        if (merges.n == merges.cap) {
            merges.cap = merges.cap ? merges.cap * 2 : 4096;
            merges.v = xrealloc(merges.v, size_mul(merges.cap, sizeof *merges.v));
        }
        merges.v[merges.n++] = top.pair;
        tr->round++;
        for (uint32_t i = 0; i < top.words.n; i++) merge_in_word(tr, top.words.v[i], a, b, ab);
        free(top.words.v);
        queue_arisen(tr);
        progress_at(&bar, (double)names->n_ids, "%zu tokens, the last seen %s times", names->n_ids,
                    human_count((double)top.count));
    }
    progress_end(&bar, "%zu tokens, %zu merges", names->n_ids, merges.n);
    buf_free(&joined);
    return merges;
}

static void json_token(Buf *b, const Vocab *v, int32_t id) {
    buf_str(b, "\"");
    json_escape(b, vocab_str(v, id), v->spelling[id].n);
    buf_str(b, "\"");
}

static void json_pattern(Buf *b, const char *pattern) { json_escape(b, pattern, strlen(pattern)); }

/* The post-processor: the items of a template around a text, and around two. */
static void write_template(Buf *b, const Vocab *v, Wrap single, Wrap pair) {
    buf_str(b, "  \"post_processor\": {\n    \"type\": \"TemplateProcessing\",\n");
    for (int both = 0; both < 2; both++) {
        Wrap w = both ? pair : single;
        buf_fmt(b, "    \"%s\": [", both ? "pair" : "single");
        for (int i = 0; i < w.n; i++) {
            bool text = w.v[i].id < 0;
            buf_fmt(b, "%s\n      {\n        \"%s\": {\n          \"id\": ", i ? "," : "",
                    text ? "Sequence" : "SpecialToken");
            if (text) buf_fmt(b, "\"%c\"", w.v[i].id == WRAP_A ? 'A' : 'B');
            else json_token(b, v, w.v[i].id);
            buf_fmt(b, ",\n          \"type_id\": %d\n        }\n      }", w.v[i].type);
        }
        buf_str(b, "\n    ],\n");
    }
    buf_str(b, "    \"special_tokens\": {");
    for (int i = 0, n = 0; i < single.n; i++) {
        if (single.v[i].id < 0) continue;
        buf_str(b, n++ ? ",\n      " : "\n      ");
        json_token(b, v, single.v[i].id);
        buf_str(b, ": {\n        \"id\": ");
        json_token(b, v, single.v[i].id);
        buf_fmt(b, ",\n        \"ids\": [\n          %d\n        ],\n        \"tokens\": [\n          ",
                single.v[i].id);
        json_token(b, v, single.v[i].id);
        buf_str(b, "\n        ]\n      }");
    }
    buf_str(b, "\n    }\n  },\n");
}

static void write_head(Buf *b, const Vocab *v, int n_specials) { /* up to the added tokens, which are the first ids */
    buf_str(b, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    for (int i = 0; i < n_specials; i++) {
        buf_fmt(b, "%s\n    {\n      \"id\": %d,\n      \"content\": ", i ? "," : "", i);
        json_token(b, v, i);
        buf_str(b, ",\n      \"single_word\": false,\n      \"lstrip\": false,\n      \"rstrip\": false,\n"
                   "      \"normalized\": false,\n      \"special\": true\n    }");
    }
    buf_fmt(b, "%s],\n", n_specials ? "\n  " : "");
}

static void write_vocab(Buf *b, const Vocab *v) {
    buf_str(b, "    \"vocab\": {");
    for (size_t i = 0; i < v->n_ids; i++) {
        buf_str(b, i ? ",\n      " : "\n      ");
        json_token(b, v, (int32_t)i);
        buf_fmt(b, ": %zu", i);
    }
    buf_str(b, "\n    }");
}

static void write_file(const char *dir, const char *name, Buf *b) { /* and empties b */
    char *path = path_join(dir, name);
    file_write(path, b->data, b->len);
    free(path);
    b->len = 0;
}

/* No limit, in the words of transformers (int(1e30)): the model's config knows its context. */
#define NO_MAX_LENGTH "  \"model_max_length\": 1000000000000000019884624838656\n}\n"

/* The files, laid out as Hugging Face's own writer does. */
static void write_files(const char *dir, const char *split, const Vocab *v, int n_specials, const MergeList *merges) {
    Buf b = {0};
    write_head(&b, v, n_specials);
    buf_str(&b, "  \"normalizer\": null,\n  \"pre_tokenizer\": {\n");
    if (!strcmp(split, "llama3")) {
        buf_str(&b, "    \"type\": \"Sequence\",\n    \"pretokenizers\": [\n      {\n        \"type\": \"Split\",\n"
                    "        \"pattern\": {\n          \"Regex\": \"");
        json_pattern(&b, LLAMA3_PATTERN);
        buf_str(&b, "\"\n        },\n        \"behavior\": \"Isolated\",\n        \"invert\": false\n      },\n"
                    "      {\n        \"type\": \"ByteLevel\",\n        \"add_prefix_space\": false,\n"
                    "        \"trim_offsets\": true,\n        \"use_regex\": false\n      }\n    ]\n  },\n");
    } else {
        buf_str(&b, "    \"type\": \"ByteLevel\",\n    \"add_prefix_space\": false,\n    \"trim_offsets\": true,\n"
                    "    \"use_regex\": true\n  },\n");
    }
    /* A text begins where a document of the training data does: behind the separator. Whoever encodes a prompt with
     * special tokens, transformers included, gets it put in front. */
    WrapItem item[] = {{0, 0}, {WRAP_A, 0}, {0, 1}, {WRAP_B, 1}};
    if (n_specials) write_template(&b, v, (Wrap){item, 2}, (Wrap){item, 4});
    else buf_str(&b, "  \"post_processor\": null,\n");
    buf_str(&b, "  \"decoder\": {\n    \"type\": \"ByteLevel\",\n"
                "    \"add_prefix_space\": true,\n    \"trim_offsets\": true,\n    \"use_regex\": true\n  },\n"
                "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
                "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
                "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n");
    write_vocab(&b, v);
    buf_str(&b, ",\n    \"merges\": [");
    for (size_t i = 0; i < merges->n; i++) {
        buf_str(&b, i ? ",\n      [\n        " : "\n      [\n        ");
        json_token(&b, v, (int32_t)(merges->v[i] >> 32));
        buf_str(&b, ",\n        ");
        json_token(&b, v, (int32_t)(uint32_t)merges->v[i]);
        buf_str(&b, "\n      ]");
    }
    buf_fmt(&b, "%s]\n  }\n}", merges->n ? "\n    " : "");
    write_file(dir, "tokenizer.json", &b);
    buf_str(&b, "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n");
    for (int i = 0; n_specials && i < 2; i++) {
        buf_str(&b, i ? "  \"eos_token\": " : "  \"bos_token\": ");
        json_token(&b, v, 0);
        buf_str(&b, ",\n");
    }
    buf_str(&b, "  \"clean_up_tokenization_spaces\": false,\n" NO_MAX_LENGTH);
    write_file(dir, "tokenizer_config.json", &b);
    buf_free(&b);
}

void tokenizer_train(TextSource src, const char *split, int vocab, int64_t min_frequency, const char **specials,
                     int n_specials, const char *dir) {
    tables_once();
    Split rule = !strcmp(split, "llama3") ? (Split){SPLIT_LLAMA3, 3} : (Split){SPLIT_GPT2, 0};
    if (strcmp(split, "llama3") && strcmp(split, "gpt2"))
        die("the split rule \"%s\" is neither gpt2 nor llama3", split);
    if (vocab < 256 + n_specials || vocab > MAX_IDS)
        die("a vocabulary of %d is not possible: 256 bytes and %d special tokens are the least, %d the most", vocab,
            n_specials, MAX_IDS);
    Vocab names = {0};
    for (int i = 0; i < n_specials; i++) {
        Buf bytes = {0};
        if (!*specials[i]) die("a special token cannot be empty");
        if (vocab_find(&names, specials[i], strlen(specials[i])) >= 0)
            die("the special token \"%s\" is given twice", specials[i]);
        if (unspell(specials[i], strlen(specials[i]), &bytes) && bytes.len == 1)
            die("the special token \"%s\" is spelt like a byte, so that ordinary text would produce it", specials[i]);
        vocab_add(&names, specials[i], strlen(specials[i]), (uint32_t)i);
        buf_free(&bytes);
    }
    /* The bytes come in the order of the characters that spell them: "!" is the first, the space a late one. */
    int32_t byte_id[256];
    for (uint32_t cp = 0; cp < 0x144; cp++) {
        char c[4];
        if (byte_of_char[cp] < 0) continue;
        byte_id[byte_of_char[cp]] = (int32_t)names.n_ids;
        vocab_add(&names, c, (size_t)utf8_put(cp, c), (uint32_t)names.n_ids);
    }
    WordTable words = count_words(src, (WordRule){.split = rule});
    Trainer tr = {0};
    trainer_begin(&tr, &words, byte_symbols, byte_id, vocab);
    words_free(&words);
    MergeList merges = learn_merges(&tr, &names, vocab, min_frequency, "");
    trainer_free(&tr);
    if (names.n_ids < (size_t)vocab)
        warn("the text has pairs for %zu tokens only, of the %d asked for", names.n_ids, vocab);
    make_dirs(dir);
    write_files(dir, split, &names, n_specials, &merges);
    free(merges.v);
    vocab_free(&names);
}

/* ---- WordPiece: the same over characters ------------------------------------------------------------------------ */

enum { N_CHARS = 0x110000, WP_PAD = 0, WP_UNK, WP_CLS, WP_SEP, WP_MASK, N_ROLES };
static const char *const bert_roles[N_ROLES] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
static const char INSIDE[] = "##";

typedef struct { uint32_t cp; int64_t count; } CharCount;

static int rarer_last(const void *a, const void *b) {
    const CharCount *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count) - (x->count > y->count) : (x->cp > y->cp) - (x->cp < y->cp);
}

typedef struct { int32_t *first, *inside; } CharIds; /* [N_CHARS] a word's first, and behind it; -1: none */

static uint32_t char_symbols(const void *alphabet, const uint8_t *word, uint32_t n, int32_t *out) {
    const CharIds *ids = alphabet;
    uint32_t n_out = 0, cp = 0;
    for (uint32_t i = 0, len; i < n; i += len) {
        len = (uint32_t)utf8_char(word + i, n - i, &cp);
        int32_t id = i ? ids->inside[cp] : ids->first[cp];
        if (id >= 0) out[n_out++] = id; /* a character outside the alphabet leaves no gap */
    }
    return n_out;
}

/* The most frequent characters, at most `limit` of them (0: all), by number; behind them those that occur inside words,
 * by number too. Hugging Face's trainer gives these last the order of a hash table, a new one in every run; with ours
 * in its place it learns the same vocabulary. */
static CharIds learn_alphabet(const WordTable *words, int64_t limit, Vocab *names) {
    CharIds ids = {xmalloc(N_CHARS * sizeof *ids.first), xmalloc(N_CHARS * sizeof *ids.inside)};
    CharCount *seen = xcalloc(N_CHARS, sizeof *seen);
    uint8_t *is_inside = xcalloc(N_CHARS, 1);
    for (size_t k = 0; k < words->n; k++) {
        const Word *e = &words->v[k];
        const uint8_t *word = (const uint8_t *)words->pool.data + e->at;
        uint32_t cp = 0;
        for (uint32_t i = 0, len; i < e->n; i += len) {
            len = (uint32_t)utf8_char(word + i, e->n - i, &cp); /* normalised text: well-formed */
            seen[cp].cp = cp;
            seen[cp].count += e->count;
            is_inside[cp] |= i > 0;
        }
    }
    size_t n_seen = 0;
    for (uint32_t cp = 0; cp < N_CHARS; cp++) {
        ids.first[cp] = ids.inside[cp] = -1;
        if (seen[cp].count) seen[n_seen++] = seen[cp];
    }
    qsort(seen, n_seen, sizeof *seen, rarer_last);
    if (limit && n_seen > (size_t)limit) n_seen = (size_t)limit;
    for (size_t i = 0; i < n_seen; i++) ids.first[seen[i].cp] = 0;
    for (int inside = 0; inside < 2; inside++)
        for (uint32_t cp = 0; cp < N_CHARS; cp++) {
            if (ids.first[cp] < 0 || (inside && !is_inside[cp])) continue;
            char name[8];
            size_t n = inside ? sizeof INSIDE - 1 : 0;
            memcpy(name, INSIDE, n);
            n += (size_t)utf8_put(cp, name + n);
            int32_t *id = inside ? &ids.inside[cp] : &ids.first[cp];
            *id = vocab_find(names, name, n);
            if (*id >= 0) continue; /* a special token of that spelling */
            *id = (int32_t)names->n_ids;
            vocab_add(names, name, n, (uint32_t)*id);
        }
    free(seen);
    free(is_inside);
    return ids;
}

static void write_wordpiece(const char *dir, BertNorm norm, const Vocab *v, int n_specials) {
    static const char *const yes[] = {"false", "true"};
    Buf b = {0};
    write_head(&b, v, n_specials);
    buf_fmt(&b, "  \"normalizer\": {\n    \"type\": \"BertNormalizer\",\n    \"clean_text\": true,\n"
                "    \"handle_chinese_chars\": %s,\n    \"strip_accents\": null,\n    \"lowercase\": %s\n  },\n"
                "  \"pre_tokenizer\": {\n    \"type\": \"BertPreTokenizer\"\n  },\n",
            yes[norm.chinese_chars], yes[norm.lowercase]);
    WrapItem item[] = {{WP_CLS, 0}, {WRAP_A, 0}, {WP_SEP, 0}, {WRAP_B, 1}, {WP_SEP, 1}};
    write_template(&b, v, (Wrap){item, 3}, (Wrap){item, 5});
    buf_fmt(&b, "  \"decoder\": {\n    \"type\": \"WordPiece\",\n    \"prefix\": \"%s\",\n    \"cleanup\": true\n  },\n"
                "  \"model\": {\n    \"type\": \"WordPiece\",\n    \"unk_token\": \"%s\",\n"
                "    \"continuing_subword_prefix\": \"%s\",\n    \"max_input_chars_per_word\": 100,\n",
            INSIDE, bert_roles[WP_UNK], INSIDE);
    write_vocab(&b, v);
    buf_str(&b, "\n  }\n}");
    write_file(dir, "tokenizer.json", &b);
    for (size_t i = 0; i < v->n_ids; i++) {
        buf_add(&b, vocab_str(v, (int32_t)i), v->spelling[i].n);
        buf_str(&b, "\n");
    }
    write_file(dir, "vocab.txt", &b);
    buf_fmt(&b, "{\n  \"tokenizer_class\": \"BertTokenizer\",\n  \"do_lower_case\": %s,\n"
                "  \"tokenize_chinese_chars\": %s,\n  \"strip_accents\": null,\n",
            yes[norm.lowercase], yes[norm.chinese_chars]);
    static const char *const keys[N_ROLES] = {"pad", "unk", "cls", "sep", "mask"};
    for (int i = 0; i < N_ROLES; i++) buf_fmt(&b, "  \"%s_token\": \"%s\",\n", keys[i], bert_roles[i]);
    buf_str(&b, NO_MAX_LENGTH);
    write_file(dir, "tokenizer_config.json", &b);
    buf_free(&b);
}

void tokenizer_train_wordpiece(TextSource src, int vocab, int64_t min_frequency, int64_t limit_alphabet, bool lowercase,
                               bool chinese_chars, const char **specials, int n_specials, const char *dir) {
    if (vocab < 1 || vocab > MAX_IDS) die("a vocabulary of %d is not possible: %d is the most", vocab, MAX_IDS);
    tables_once();
    Vocab names = {0};
    for (int i = 0; i < N_ROLES + n_specials; i++) {
        const char *name = i < N_ROLES ? bert_roles[i] : specials[i - N_ROLES];
        if (!*name || strpbrk(name, "\r\n")) die("a special token cannot be empty or have a line break");
        if (vocab_find(&names, name, strlen(name)) >= 0) die("the special token \"%s\" is given twice", name);
        vocab_add(&names, name, strlen(name), (uint32_t)names.n_ids);
    }
    BertNorm norm = {true, chinese_chars, lowercase, lowercase};
    WordTable words = count_words(src, (WordRule){.bert = &norm});
    CharIds alphabet = learn_alphabet(&words, limit_alphabet, &names);
    if (names.n_ids > (size_t)vocab)
        warn("the text has %zu characters and special tokens already, of the %d tokens asked for", names.n_ids, vocab);
    int max_ids = names.n_ids > (size_t)vocab ? (int)names.n_ids : vocab;
    Trainer tr = {0};
    trainer_begin(&tr, &words, char_symbols, &alphabet, max_ids);
    words_free(&words);
    MergeList merges = learn_merges(&tr, &names, vocab, min_frequency, INSIDE);
    trainer_free(&tr);
    if (names.n_ids < (size_t)vocab)
        warn("the text has pairs for %zu tokens only, of the %d asked for", names.n_ids, vocab);
    make_dirs(dir);
    write_wordpiece(dir, norm, &names, N_ROLES + n_specials);
    free(alphabet.first);
    free(alphabet.inside);
    free(merges.v);
    vocab_free(&names);
}
