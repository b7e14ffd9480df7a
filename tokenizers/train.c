/* train.c - learning a vocabulary: counting words, then merging the most frequent pair, thousands of times. */
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
typedef struct { Word *v; size_t n, cap; uint64_t *slot; size_t n_slots; Buf pool; } WordTable;

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
}

static void count_text(WordTable *w, Split split, const uint8_t *p, const uint8_t *end) {
    for (const uint8_t *next; p < end; p = next) {
        next = word_end(split, p, end);
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

typedef struct { const uint8_t *from, *to; } Piece;
enum { PIECE_BYTES = 1 << 18, BATCH_BYTES = 1 << 25 };

/* Sums are per word and order plays no part, so the threads' tables can be added up in any order. */
static void count_pieces(WordTable *tables, Split split, const Piece *pieces, int n) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 0; i < n; i++) {
#ifdef _OPENMP
        count_text(&tables[omp_get_thread_num()], split, pieces[i].from, pieces[i].to);
#else
        count_text(&tables[0], split, pieces[i].from, pieces[i].to);
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

static void count_batch(WordTable *tables, Split split, const uint8_t *base, Ranges *r) {
    Piece *pieces = xmalloc(size_mul(r->n + 1, sizeof *pieces));
    for (size_t i = 0; i < r->n; i++) pieces[i] = (Piece){base + r->v[i].from, base + r->v[i].to};
    if (r->n > INT_MAX) die("too many documents in one batch");
    count_pieces(tables, split, pieces, (int)r->n);
    free(pieces);
    r->n = 0;
}

static WordTable count_words(TextSource src, Split split, double *bytes) {
    int n_threads = 1;
#ifdef _OPENMP
    n_threads = omp_get_max_threads();
#endif
    WordTable *tables = xcalloc((size_t)n_threads, sizeof *tables);
    Buf batch = {0};
    Ranges ranges = {0};
    Progress bar = progress_begin("counting words", src.total_bytes);
    *bytes = 0;
    for (;;) {
        size_t n = 0;
        const char *text = src.next(src.state, &n);
        if (text && n >= BATCH_BYTES) { /* a document as large as a batch is counted where it lies */
            Ranges own = {0};
            cut_document(&own, (const uint8_t *)text, 0, n);
            count_batch(tables, split, (const uint8_t *)text, &own);
            free(own.v);
        } else if (text) { /* copied: it is valid only until the next one */
            size_t from = batch.len;
            buf_add(&batch, text, n);
            cut_document(&ranges, (const uint8_t *)batch.data, from, batch.len);
        }
        if (text) *bytes += (double)n;
        if (!text || batch.len >= BATCH_BYTES) {
            count_batch(tables, split, (const uint8_t *)batch.data, &ranges);
            batch.len = 0;
            progress_at(&bar, *bytes, "%s", human_bytes(*bytes));
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
    progress_end(&bar, "%s distinct words in %s", human_count((double)all.n), human_bytes(*bytes));
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

static void trainer_begin(Trainer *tr, const WordTable *w, const int32_t byte_id[256], int vocab) {
    tr->start = xmalloc(size_mul(w->n + 1, sizeof *tr->start));
    tr->length = xmalloc(size_mul(w->n + 1, sizeof *tr->length));
    tr->count = xmalloc(size_mul(w->n + 1, sizeof *tr->count));
    tr->symbol = xmalloc(size_mul(w->pool.len + 1, sizeof *tr->symbol));
    if (w->n >= UINT32_MAX) die("%zu distinct words are more than training can hold", w->n);
    for (int k = 0; k < 4; k++) {
        tr->known[k] = xcalloc((size_t)vocab, sizeof *tr->known[k]);
        tr->stamp[k] = xcalloc((size_t)vocab, sizeof *tr->stamp[k]);
    }
    for (uint32_t i = 0; i < (uint32_t)w->n; i++) {
        const Word *e = &w->v[i];
        tr->start[i] = e->at, tr->length[i] = e->n, tr->count[i] = e->count;
        int32_t *s = tr->symbol + e->at;
        for (uint32_t k = 0; k < e->n; k++) s[k] = byte_id[(uint8_t)w->pool.data[e->at + k]];
        for (uint32_t k = 0; k + 1 < e->n; k++) {
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

/* Fills names up to `vocab` tokens and lists the merges in the order learnt. */
static MergeList learn_merges(Trainer *tr, Vocab *names, int vocab, int64_t min_frequency) {
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
        buf_add(&joined, vocab_str(names, b), names->spelling[b].n);
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

/* A text begins where a document of the training data does: behind the separator. Whoever encodes a prompt with special
 * tokens, transformers included, gets it put in front. */
static void write_template(Buf *b, const Vocab *v, int n_specials) {
    if (!n_specials) { buf_str(b, "  \"post_processor\": null,\n"); return; }
    buf_str(b, "  \"post_processor\": {\n    \"type\": \"TemplateProcessing\",\n");
    for (int pair = 0; pair < 2; pair++) {
        buf_fmt(b, "    \"%s\": [", pair ? "pair" : "single");
        for (int i = 0; i <= pair; i++) {
            buf_fmt(b, "%s\n      {\n        \"SpecialToken\": {\n          \"id\": ", i ? "," : "");
            json_token(b, v, 0);
            buf_fmt(b, ",\n          \"type_id\": %d\n        }\n      },\n      {\n        \"Sequence\": {\n          \"id\": \"%c\",\n"
                       "          \"type_id\": %d\n        }\n      }", i, 'A' + i, i);
        }
        buf_str(b, "\n    ],\n");
    }
    buf_str(b, "    \"special_tokens\": {\n      ");
    json_token(b, v, 0);
    buf_str(b, ": {\n        \"id\": ");
    json_token(b, v, 0);
    buf_str(b, ",\n        \"ids\": [\n          0\n        ],\n        \"tokens\": [\n          ");
    json_token(b, v, 0);
    buf_str(b, "\n        ]\n      }\n    }\n  },\n");
}

/* The files, laid out as Hugging Face's own writer does. */
static void write_files(const char *dir, const char *split, const Vocab *v, int n_specials, const MergeList *merges) {
    Buf b = {0};
    buf_str(&b, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    for (int i = 0; i < n_specials; i++) {
        buf_fmt(&b, "%s\n    {\n      \"id\": %d,\n      \"content\": ", i ? "," : "", i);
        json_token(&b, v, i);
        buf_str(&b, ",\n      \"single_word\": false,\n      \"lstrip\": false,\n      \"rstrip\": false,\n"
                    "      \"normalized\": false,\n      \"special\": true\n    }");
    }
    buf_fmt(&b, "%s],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\n", n_specials ? "\n  " : "");
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
    write_template(&b, v, n_specials);
    buf_str(&b, "  \"decoder\": {\n    \"type\": \"ByteLevel\",\n"
                "    \"add_prefix_space\": true,\n    \"trim_offsets\": true,\n    \"use_regex\": true\n  },\n"
                "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
                "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
                "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
                "    \"vocab\": {");
    for (size_t i = 0; i < v->n_ids; i++) {
        buf_str(&b, i ? ",\n      " : "\n      ");
        json_token(&b, v, (int32_t)i);
        buf_fmt(&b, ": %zu", i);
    }
    buf_str(&b, "\n    },\n    \"merges\": [");
    for (size_t i = 0; i < merges->n; i++) {
        buf_str(&b, i ? ",\n      [\n        " : "\n      [\n        ");
        json_token(&b, v, (int32_t)(merges->v[i] >> 32));
        buf_str(&b, ",\n        ");
        json_token(&b, v, (int32_t)(uint32_t)merges->v[i]);
        buf_str(&b, "\n      ]");
    }
    buf_fmt(&b, "%s]\n  }\n}", merges->n ? "\n    " : "");
    char *path = path_join(dir, "tokenizer.json");
    file_write(path, b.data, b.len);
    free(path);

    b.len = 0;
    buf_str(&b, "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n");
    for (int i = 0; n_specials && i < 2; i++) {
        buf_str(&b, i ? "  \"eos_token\": " : "  \"bos_token\": ");
        json_token(&b, v, 0);
        buf_str(&b, ",\n");
    }
    /* No limit, in the words of transformers (int(1e30)): the model's config knows its context. */
    buf_str(&b, "  \"clean_up_tokenization_spaces\": false,\n"
                "  \"model_max_length\": 1000000000000000019884624838656\n}\n");
    path = path_join(dir, "tokenizer_config.json");
    file_write(path, b.data, b.len);
    free(path);
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
    double bytes;
    WordTable words = count_words(src, rule, &bytes);
    Trainer tr = {0};
    trainer_begin(&tr, &words, byte_id, vocab);
    words_free(&words);
    MergeList merges = learn_merges(&tr, &names, vocab, min_frequency);
    trainer_free(&tr);
    if (names.n_ids < (size_t)vocab)
        warn("the text has pairs for %zu tokens only, of the %d asked for", names.n_ids, vocab);
    make_dirs(dir);
    write_files(dir, split, &names, n_specials, &merges);
    free(merges.v);
    vocab_free(&names);
}
