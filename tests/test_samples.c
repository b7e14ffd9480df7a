/* test_samples.c - task data: what is learnt and what is only read, how sets are mixed, and that a packed row is worth
 * as much as its samples apart. */
#include "test.h"

#include "../dataset.h"
#include "../samples.h"

static Tokenizer *tok;
static ChatTemplate template;
static StrList labels;

static const char *corpus_text(void *state, size_t *n) {
    static Buf text;
    int *i = state;
    if (*i >= 60) return NULL;
    text.len = 0;
    corpus_document(1, CORPUS_TRAIN, CORPUS_ALL, (uint64_t)(*i)++, &text);
    *n = text.len;
    return text.data;
}
static char *file(const char *name, const char *text) {
    char *path = path_join(test_tmpdir(), name);
    file_write(path, text, strlen(text));
    return path;
}
static SampleReader reader(Task task, size_t max_tokens) {
    return (SampleReader){.task = task, .tok = tok, .chat = &template, .opening = tokenizer_eos(tok),
                          .max_tokens = max_tokens,
                          .labels = &labels, .new_labels = true};
}
static SampleSet *set_of(Task task, size_t max_tokens, const char *name, const char *text) {
    SampleReader r = reader(task, max_tokens);
    char *path = file(name, text);
    SampleSet *s = samples_read(&r, path);
    free(path);
    return s;
}
/* The text of a sample's tokens that are marked `on`, runs separated by a bar. */
static char *marked(const SampleSet *s, size_t i, bool on) {
    Buf b = {0};
    const Sample *x = &s->v[i];
    buf_str(&b, "");
    for (size_t t = 0; t < x->n; t++) {
        if ((bool)s->learn.data[x->at + t] != on) continue;
        if (b.len && (bool)s->learn.data[x->at + t - 1] != on) buf_str(&b, "|");
        tokenizer_decode(tok, &s->ids.v[x->at + t], 1, false, &b);
    }
    return b.data;
}
static void check_marks(const char *what, const SampleSet *s, size_t i, const char *learnt, const char *read) {
    char *a = marked(s, i, true), *b = marked(s, i, false);
    CHECK(!strcmp(a, learnt) && !strcmp(b, read), "%s: learns \"%s\", reads \"%s\"", what, a, b);
    free(a);
    free(b);
}

#define END "<|endoftext|>"
#define ASK(q) "### Instruction:\n" q "\n\n### Response:\n"
static void test_rows(void) {
    SampleSet *s = set_of(TASK_CHAT, 200, "rows.jsonl",
        "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"one\"},{\"role\":\"assistant\",\"content\":\"two\"},"
        "{\"role\":\"user\",\"content\":\"three\"},{\"role\":\"assistant\",\"content\":\"four\"}]}\n"
        "{\"instruction\":\"one\",\"input\":\"more\",\"output\":\"two\",\"system\":\"S\",\"history\":[[\"a\",\"b\"]]}\r\n"
        "\n"
        "{\"conversations\":[{\"from\":\"human\",\"value\":\"one\"},{\"from\":\"gpt\",\"value\":\"two\"}]}\n"
        "{\"prompt\":\"one\",\"completion\":\"two\"}\n"
        "{\"question\":\"one\",\"answer\":\"two\"}\n"
        "{\"conversations\":[{\"role\":\"user\",\"content\":\"one\"},{\"role\":\"assistant\",\"content\":\"two\"}]}\n"
        "{\"text\":\"one two\"}\n"
        "{\"instruction\":\"one\",\"output\":\" \"}\n"
        "{\"instruction\":\"one\",\"input\":null,\"output\":\"" END "\"}");
    CHECK(s->n == 8 && s->dropped == 1 && !s->truncated, "8 samples of 9 rows; one has an empty answer (%zu, %zu)",
          s->n, s->dropped);
    check_marks("messages", s, 0, "two" END "|four" END, END "S\n\n" ASK("one") "|" ASK("three"));
    check_marks("Alpaca's, with system and history", s, 1, "b" END "|two" END,
                END "S\n\n" ASK("a") "|" ASK("one\nmore"));
    for (size_t i = 2; i < 6; i++) check_marks("question and answer", s, i, "two" END, END ASK("one"));
    check_marks("plain text", s, 6, "one two" END, END);
    check_marks("the letters of a special token", s, 7, END END, END ASK("one"));
    CHECK(s->ids.v[s->v[7].at + s->v[7].n - 2] != tokenizer_eos(tok), "which are not that token");
    CHECK(s->duplicates == 3, "four rows say the same: %zu duplicates", s->duplicates);
    samples_free(s);

    s = set_of(TASK_LM, 200, "pairs.jsonl", "{\"prompt\":\"Once upon\",\"completion\":\" a time\"}\n");
    check_marks("--task lm: prompt and completion", s, 0, " a time" END, END "Once upon");
    samples_free(s);

    s = set_of(TASK_CHAT, 45, "long.jsonl",
               "{\"prompt\":\"one\",\"completion\":\"a b c d e f g h i j k l m n o p q r s t u v w x y z\"}\n"
        "{\"prompt\":\"a b c d e f g h i j k l m n o p q r s t u v w x y z\",\"completion\":\"two\"}\n");
    CHECK(s->n == 1 && s->truncated == 2 && s->dropped == 1 && s->v[0].n == 45,
          "a long answer is cut; a question as long leaves nothing to learn (%zu, %zu, %zu)", s->n, s->truncated,
              s->dropped);
    samples_free(s);
}

/* Pieces of a long text: every token but the opening is learnt exactly once. */
static void test_pieces(void) {
    Buf text = {0};
    for (int i = 0; i < 50; i++) buf_fmt(&text, "word %d and ", i);
    char *path = file("pieces.txt", text.data);
    SampleReader r = reader(TASK_LM, 17);
    SampleSet *s = samples_read(&r, path);
    Ids whole = {0};
    ids_add(&whole, tokenizer_eos(tok));
    tokenizer_encode(tok, text.data, text.len, false, &whole);
    ids_add(&whole, tokenizer_eos(tok));
    size_t at = 1, wrong = 0;
    for (size_t i = 0; i < s->n; i++)
        for (size_t t = 1; t < s->v[i].n; t++, at++)
            wrong += at >= whole.n || s->ids.v[s->v[i].at + t] != whole.v[at]
                || s->ids.v[s->v[i].at + t - 1] != whole.v[at - 1];
    CHECK(!wrong && at == whole.n && s->n > 5, "%zu pieces hold each of %zu tokens once, after the one before it", s->n,
          whole.n);
    ids_free(&whole);
    buf_free(&text);
    free(path);
    samples_free(s);
}

static SampleSet *numbered(const char *name, int n, double weight) {
    Buf b = {0};
    for (int i = 0; i < n; i++) buf_fmt(&b, "{\"prompt\":\"%s %d\",\"completion\":\"%.*s\"}\n", name, i, i % 26 + 1,
                                        "abcdefghijklmnopqrstuvwxyz");
    SampleSet *s = set_of(TASK_CHAT, 100, name, b.data);
    s->weight = weight;
    buf_free(&b);
    return s;
}
static void test_mixing(void) {
    SampleSet *sets[3] = {numbered("task.jsonl", 40, 1), numbered("general.jsonl", 100, 0.3), numbered("little.jsonl",
            10, 2.5)};
    size_t want[3] = {40, 30, 25}, *seen[3], epochs = 10, last_order = 0;
    for (int s = 0; s < 3; s++) seen[s] = xcalloc(sets[s]->n, sizeof(size_t));
    for (size_t e = 0; e < epochs; e++) {
        Plan p = plan_epoch(sets, 3, 7, e, 0, 1);
        size_t n[3] = {0}, order = 0;
        for (size_t i = 0; i < p.n_items; i++) {
            n[p.item[i].set]++;
            seen[p.item[i].set][p.item[i].i]++;
            order = order * 31 + p.item[i].i * 3 + p.item[i].set;
        }
        if (n[0] != want[0] || n[1] != want[1] || n[2] != want[2] || order == last_order)
            CHECK(false, "epoch %zu: %zu, %zu and %zu samples", e, n[0], n[1], n[2]);
        last_order = order;
        plan_free(&p);
    }
    for (int s = 0; s < 3; s++) {
        size_t low = SIZE_MAX, high = 0;
        for (size_t i = 0; i < sets[s]->n; i++) {
            if (seen[s][i] < low) low = seen[s][i];
            if (seen[s][i] > high) high = seen[s][i];
        }
        CHECK(low == high && low == want[s] * epochs / sets[s]->n,
              "weight %g: in 10 epochs each of %zu samples %zu times",
              sets[s]->weight, sets[s]->n, low);
        free(seen[s]);
    }
    Plan a = plan_epoch(sets, 3, 7, 3, 0, 4), b = plan_epoch(sets, 3, 7, 3, 0, 4), c = plan_epoch(sets, 3, 8, 3, 0, 4);
    CHECK(!memcmp(a.item, b.item, a.n_items * sizeof *a.item), "the same seed and epoch, the same order");
    CHECK(memcmp(a.item, c.item, a.n_items * sizeof *a.item), "another seed, another order");
    size_t spread = 0, at_random = 0;
    Plan d = plan_epoch(sets, 3, 7, 3, 0, 1);
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i + 4 <= a.n_items; i += 4) {
            size_t low = SIZE_MAX, high = 0;
            for (size_t j = i; j < i + 4; j++) {
                SampleRef x = (k ? d : a).item[j];
                size_t n = sample_inputs(&sets[x.set]->v[x.i]);
                if (n < low) low = n;
                if (n > high) high = n;
            }
            *(k ? &at_random : &spread) += high - low;
        }
    CHECK(spread * 4 < at_random, "batches of like length: %zu padded tokens, %zu in any order", spread, at_random);
    plan_free(&a), plan_free(&b), plan_free(&c), plan_free(&d);
    for (int s = 0; s < 3; s++) samples_free(sets[s]);
}

static void test_specs(void) {
    static const struct { const char *spec, *path; double weight; } cases[] = {
        {"a.jsonl", "a.jsonl", 1}, {"a.jsonl:0.3", "a.jsonl", 0.3}, {"a.jsonl:2", "a.jsonl", 2}, {"c:/a.jsonl",
                "c:/a.jsonl", 1},
        {"corpus:10M", "corpus:10M", 1}, {"corpus:10M:2", "corpus:10M:2", 1}, {"corpus:10M:0.5", "corpus:10M", 0.5},
        {"corpus-valid:1k:2:1.0", "corpus-valid:1k:2", 1}, {"a:b", "a:b", 1}, {"a:", "a:", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double w = 1;
        char *path = sample_spec(cases[i].spec, &w);
        CHECK(!strcmp(path, cases[i].path) && w == cases[i].weight, "%s: %s, weight %g", cases[i].spec, path, w);
        free(path);
    }
    double w;
    CHECK_DIES({ sample_spec("a.jsonl:0", &w); }, "a weight is above 0");
    CHECK_DIES({ sample_spec("a.jsonl:1001", &w); }, "at most 1000");
}

static void test_hold_out(void) {
    Buf b = {0};
    for (int i = 0; i < 300; i++) buf_fmt(&b, "{\"prompt\":\"q %d\",\"completion\":\"x\"}\n",
                                          i / 3);   /* each thrice */
    SampleSet *s = set_of(TASK_CHAT, 100, "thrice.jsonl", b.data), *other = set_of(TASK_CHAT, 100, "again.jsonl",
            b.data);
    SampleSet *held = samples_hold_out(s, 0.1), *same = samples_hold_out(other, 0.1);
    CHECK(held && held->n >= 30 && held->n < 33 && s->n + held->n == 300, "a tenth is held out: %zu of 300", held->n);
    size_t both = 0, learnt = 0;
    for (size_t i = 0; i < held->n; i++)
        for (size_t k = 0; k < s->n; k++)
            both += held->v[i].n == s->v[k].n && !memcmp(held->ids.v + held->v[i].at, s->ids.v + s->v[k].at,
                                                         4 * (size_t)s->v[k].n);
    for (size_t i = 0; i < held->n; i++)
        for (size_t t = 1; t < held->v[i].n; t++) learnt += (size_t)held->learn.data[held->v[i].at + t];
    CHECK(!both, "no sample is on both sides, though each is there three times");
    CHECK(learnt == held->learnt, "their marks came along: %zu", learnt);
    CHECK(same->ids.n == held->ids.n && !memcmp(same->ids.v, held->ids.v, held->ids.n * 4),
          "the choice depends on the samples alone");
    samples_free(s), samples_free(held), samples_free(other), samples_free(same);
    buf_free(&b);
}

static bool differs(const SampleSet *s, size_t i, const SampleSet *t, size_t j) {
    return s->v[i].n != t->v[j].n || memcmp(s->ids.v + s->v[i].at, t->ids.v + t->v[j].at, 4 * (size_t)s->v[i].n);
}
/* Variants: other questions, the same answers and digits; the same from the same seed; held out with what they vary. */
static void test_variants(void) {
    Buf b = {0};
    for (int i = 0; i < 100; i++)
        buf_fmt(&b, "{\"instruction\":\"Please multiply these numbers 24680 times\",\"input\":\"%d and %d\",\"output\":\"answer %d\"}\n",
                i + 1000, i + 7000, i);
    SampleSet *set[4];
    for (int k = 0; k < 4; k++) {
        SampleReader r = reader(TASK_CHAT, 300);
        char *path = file("vary.jsonl", b.data);
        r.variants = k == 3 ? 0 : 3, r.seed = k == 2 ? 8 : 7;
        set[k] = samples_read(&r, path);
        free(path);
    }
    size_t other = 0, reseeded = 0, like = 0, turned = 0, misspelt = 0, wrong = 0;
    CHECK(set[0]->n == 400 && !set[0]->duplicates, "three variants of each row: %zu samples", set[0]->n);
    for (size_t i = 0; i < 400; i++) {
        other += differs(set[0], i, set[1], i), reseeded += differs(set[0], i, set[2], i);
        like += i % 4 && !differs(set[0], i, set[0], i / 4 * 4);
        char *answer = marked(set[0], i, true), *asked = marked(set[0], i, false), want[40];
        snprintf(want, sizeof want, "answer %zu" END, i / 4);
        wrong += strcmp(answer, want) != 0;
        snprintf(want, sizeof want, "%zu and %zu", i / 4 + 1000, i / 4 + 7000);
        const char *numbers = strstr(asked, want), *task = strstr(asked, "these");
        wrong += !numbers || !strstr(asked, " 24680 t"), turned += numbers && task && numbers < task;
        misspelt += !strstr(asked, "multiply") || !strstr(asked, "numbers");
        if (i % 4 == 0) wrong += differs(set[0], i, set[3], i / 4);
        free(answer), free(asked);
    }
    CHECK(!wrong, "answers, digits and the rows themselves stay: %zu do not", wrong);
    CHECK(!other && reseeded > 200 && !like, "they depend on the seed: %zu differ, by another seed %zu; %zu change nothing", other, reseeded, like);
    CHECK(turned > 100 && turned < 200, "input before instruction in %zu of 300", turned);
    CHECK(misspelt > 20 && misspelt < 120, "%zu of 300 are misspelt", misspelt);
    SampleSet *held = samples_hold_out(set[0], 0.1);
    size_t both = 0;
    for (size_t i = 0; i < held->n; i++) {
        char *answer = marked(held, i, true);
        for (size_t k = 0; k < set[0]->n; k++) {
            char *a = marked(set[0], k, true);
            both += !strcmp(a, answer);
            free(a);
        }
        free(answer);
    }
    CHECK(held->n == 10 && set[0]->n == 360 && !both, "held out without variants, which do not stay behind: %zu, %zu, %zu", held->n, set[0]->n, both);
    samples_free(held);
    for (int k = 0; k < 4; k++) samples_free(set[k]);
    buf_free(&b);
}

static void test_labels(void) {
    labels = (StrList){0};
    SampleSet *s = set_of(TASK_CLASSIFY, 100, "labels.jsonl",
                          "{\"text\":\"a\",\"label\":10}\n{\"text\":\"b\",\"label\":9}\n"
                          "{\"text\":\"c\",\"label\":\"-1\"}\n{\"text\":\"d\",\"text_pair\":\"e\",\"label\":10}\n");
    labels_sort(&labels, &s, 1);
    CHECK(labels.n == 3 && !strcmp(labels.v[0], "-1") && !strcmp(labels.v[1], "9") && !strcmp(labels.v[2], "10"),
          "numbers sort by value");
    CHECK(s->v[0].label == 2 && s->v[1].label == 1 && s->v[2].label == 0 && s->v[3].label == 2,
          "and the samples follow");
    SampleReader r = reader(TASK_CLASSIFY, 100);
    r.new_labels = false;
    char *path = file("unseen.jsonl", "{\"text\":\"a\",\"label\":9}\n{\"text\":\"a\",\"label\":8}\n");
    CHECK_DIES({ samples_read(&r, path); }, "unseen.jsonl:2: label \"8\" was not seen in training");
    free(path);
    samples_free(s);
}

/* The summed loss and the gradient of the same samples in packed rows, in padded rows, and one by one. */
static double loss_of(Model *m, SampleSet *s, size_t pack, size_t batch, float **grad) {
    size_t T = pack ? pack : 64, B = 16;
    Acts *a = acts_new(m, B, T, T, true, false);
    BatchRoom room = batch_room(B, T);
    Plan p = plan_in_order(&s, 1, pack);
    op.zero(m->grad, m->n_trained * sizeof(float));
    double sum = 0;
    for (size_t row = 0; row < p.n_rows; row += batch) {
        size_t rows = p.n_rows - row < batch ? p.n_rows - row : batch;
        Batch b = plan_batch(&p, &s, row, rows, T, 0, false, &room);
        acts_reshape(m, a, b.B, b.T);
        forward(m, a, &b);
        sum += model_loss(m, a, &b, 1);
    }
    *grad = xmalloc(m->n_trained * sizeof(float));
    op.download(*grad, m->grad, m->n_trained * sizeof(float));
    if (pack) CHECK(p.n_rows * 2 < s->n, "%zu samples in %zu rows", s->n, p.n_rows);
    plan_free(&p);
    batch_room_free(&room);
    acts_free(a);
    return sum;
}
static void test_packing(const char *family, int window) {
    Config c = config_family_default(family);
    c.V = tokenizer_vocab(tok), c.C = 32, c.L = 2, c.H = c.K = 2, c.D = 16, c.rope_dims = 16, c.F = 64, c.max_pos = 128;
    c.init_std = 0.15f, c.window = window;
    Model *m = model_new(&c, 3);
    model_train_begin(m);
    SampleSet *s = numbered("pack.jsonl", 30, 1);
    float *one, *packed, *padded;
    double alone = loss_of(m, s, 0, 1, &one), in_rows = loss_of(m, s, 128, 3, &packed), side_by_side = loss_of(m, s, 0,
            7, &padded);
    CHECK(fabs(in_rows - alone) < 1e-4 * alone, "%s: packed %.6f, one by one %.6f", family, in_rows, alone);
    CHECK(fabs(side_by_side - alone) < 1e-4 * alone, "%s: padded %.6f, one by one %.6f", family, side_by_side, alone);
    CHECK_CLOSE("gradient of packed rows", packed, one, m->n_trained, 1e-3, 1e-4);
    CHECK_CLOSE("gradient of padded rows", padded, one, m->n_trained, 1e-3, 1e-4);
    free(one), free(packed), free(padded);
    samples_free(s);
    model_free(m);
}

int main(void) {
    common.quiet = true;
    ops_select("cpu", "auto", PREC_F32);
    int i = 0;
    static const char *specials[] = {END};
    tokenizer_train((TextSource){corpus_text, &i, 1e5}, "gpt2", 400, 2, specials, 1, test_tmpdir());
    tok = tokenizer_load(test_tmpdir());
    template = chat_template(test_tmpdir(), tok, "alpaca");
    test_rows();
    test_pieces();
    test_mixing();
    test_specs();
    test_hold_out();
    test_variants();
    test_labels();
    test_packing("llama", 0);
    test_packing("gpt2", 0);
    test_packing("mistral", 9);
    return test_end();
}
