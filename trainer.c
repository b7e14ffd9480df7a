/* trainer.c - checkpoints, learning rates, going on: what pre-training and fine-tuning share.
 *
 * MAP
 *   [trainer.schedule]  the learning rate over time
 *   [trainer.options]   a stage's options as JSON, and back
 *   [trainer.save]      checkpoints: whole or not at all
 *   [trainer.resume]    going on from one
 *   [trainer.watch]     is the run still sane?
 *
 * Refused here: what a step is, and what a model directory holds. */
#include "trainer.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ================================================================================================================= *
 * [trainer.schedule] Linear warm-up, then one of four ways down; step counts from 1.                                 */
double schedule_lr(const Schedule *s, int64_t step) {
    if (step <= s->warmup) return s->lr * (double)step / (double)(s->warmup + (s->warmup == 0));
    double floor_lr = s->lr * s->min_lr, span = (double)(s->steps - s->warmup);
    double done = (double)(step - s->warmup) / (span > 0 ? span : 1);
    if (done > 1) done = 1;
    if (!strcmp(s->kind, "cosine")) return floor_lr + (s->lr - floor_lr) * 0.5 * (1 + cos(M_PI * done));
    if (!strcmp(s->kind, "linear")) return floor_lr + (s->lr - floor_lr) * (1 - done);
    if (!strcmp(s->kind, "wsd")) {
        double left = (1 - done) / (s->decay_part > 0 ? s->decay_part : 1e-9);
        return left >= 1 ? s->lr : floor_lr + (s->lr - floor_lr) * left;
    }
    return s->lr;
}

/* ================================================================================================================= *
 * [trainer.options] */
static bool travels(const Options *o, const Opt *t) {
    if (t->kind == OPT_SECTION) return false;
    for (const char *const *s = o->stay; *s; s++)
        if (!strcmp(t->name, *s)) return false;
    return true;
}
cJSON *options_to_json(const Options *o) {
    cJSON *j = cJSON_CreateObject();
    for (int i = 0; i < o->n; i++) {
        Opt *t = &o->table[i];
        if (!travels(o, t)) continue;
        const char *text = t->kind == OPT_STR ? *(const char **)t->value : NULL;
        if (t->kind == OPT_FLAG) cJSON_AddBoolToObject(j, t->name, *(bool *)t->value);
        else if (t->kind == OPT_INT) cJSON_AddNumberToObject(j, t->name, (double)*(int64_t *)t->value);
        else if (t->kind == OPT_FLOAT) cJSON_AddNumberToObject(j, t->name, *(double *)t->value);
        else if (text) cJSON_AddStringToObject(j, t->name, text);
        else if (t->kind == OPT_LIST) {
            StrList *l = t->value;
            cJSON_AddItemToObject(j, t->name, cJSON_CreateStringArray(l->v, l->n));
        }
    }
    return j;
}
void options_from_json(const Options *o, const cJSON *j, const char *path) {
    for (int i = 0; i < o->n; i++) {
        Opt *t = &o->table[i];
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, t->name), *s;
        if (!travels(o, t) || t->given || !v) continue;
        if (t->kind == OPT_FLAG) *(bool *)t->value = cJSON_IsTrue(v);
        else if (t->kind == OPT_INT && cJSON_IsNumber(v)) *(int64_t *)t->value = (int64_t)v->valuedouble;
        else if (t->kind == OPT_FLOAT && cJSON_IsNumber(v)) *(double *)t->value = v->valuedouble;
        else if (t->kind == OPT_STR && cJSON_IsString(v)) *(const char **)t->value = xstrdup(v->valuestring);
        else if (t->kind == OPT_LIST && cJSON_IsArray(v)) {
            StrList *l = t->value;
            *l = (StrList){xcalloc((size_t)cJSON_GetArraySize(v) + 1, sizeof(char *)), 0};
            cJSON_ArrayForEach(s, v) if (cJSON_IsString(s)) l->v[l->n++] = xstrdup(s->valuestring);
        } else die("%s: option \"%s\" has the wrong type", path, t->name);
    }
}

/* ================================================================================================================= *
 * [trainer.save] The parameters that train, each with a name of its own: an adapter's A and B beside its module's. */
typedef struct { Param *p; char *name; } Trained;
static Trained *trained_params(const Model *m, int *n) {
    Trained *v = xcalloc((size_t)m->n_params + (size_t)m->n_lora * (1 + PARTS_MAX), sizeof *v);
    *n = 0;
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].grad) v[(*n)++] = (Trained){&m->params[i], param_name(&m->params[i])};
    for (int i = 0; i < m->n_lora; i++)
        for (int j = -1; j < m->lora[i].n_parts; j++) {
            Param *p = j < 0 ? &m->lora[i].a : &m->lora[i].b[j];
            char *name = param_name(p);
            v[(*n)++] = (Trained){p, strf("%s.lora_%c", name, j < 0 ? 'A' : 'B')};
            free(name);
        }
    return v;
}
static void trained_free(Trained *v, int n) {
    for (int i = 0; i < n; i++) free(v[i].name);
    free(v);
}
static const char *const moment_names[] = {"exp_avg", "exp_avg_sq"};  /* torch's */

static void moments_save(const Model *m, const char *dir) {
    size_t bytes = m->n_trained * sizeof(float);
    float *host[2] = {m->m, m->v};
    if (!op.host_memory)
        for (int k = 0; k < 2; k++) op.download(host[k] = xmalloc(bytes), k ? m->v : m->m, bytes);
    int n, n_out = 0;
    Trained *p = trained_params(m, &n);
    TensorOut *out = xcalloc((size_t)n * 2, sizeof *out);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < n; i++)
            out[n_out++] = (TensorOut){.name = strf("%s.%s", moment_names[k], p[i].name), .dtype = DT_F32, .n_dims = 1,
                                       .shape = {p[i].p->n},
                                       .ctx = host[k] + (k ? p[i].p->v - m->v : p[i].p->m - m->m)};
    char *file = path_join(dir, "optimizer.safetensors");
    tensors_save(file, out, n_out, NULL);
    free(file);
    for (int i = 0; i < n_out; i++) free(out[i].name);
    free(out);
    trained_free(p, n);
    if (!op.host_memory) free(host[0]), free(host[1]);
}

char *checkpoint_path(const Trainer *t, int64_t step) { return strf("%s/checkpoint-%lld", t->out, (long long)step); }

/* Renamed first: a run killed in the middle leaves no half of a checkpoint under a checkpoint's name. */
static void checkpoint_remove(const Trainer *t, int64_t step) {
    char *path = checkpoint_path(t, step), *tmp = strf("%s.tmp", path);
    dir_remove(tmp);
    if (rename(path, tmp)) die("cannot rename %s to %s: %s", path, tmp, strerror(errno));
    dir_remove(tmp);
    free(path);
    free(tmp);
}

/* Steps of the checkpoints in t->out, ascending. */
static int by_step(const void *a, const void *b) {
    return (*(const int64_t *)a > *(const int64_t *)b) - (*(const int64_t *)a < *(const int64_t *)b);
}
static int64_t *checkpoints(const Trainer *t, int *n) {
    int64_t *v = NULL;
    *n = 0;
    DIR *dir = opendir(t->out);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        long long step;
        int end = 0;
        if (sscanf(e->d_name, "checkpoint-%lld%n", &step, &end) != 1 || e->d_name[end]) continue;
        v = xrealloc(v, (size_t)(*n + 1) * sizeof *v);
        v[(*n)++] = step;
    }
    if (dir) closedir(dir);
    if (*n) qsort(v, (size_t)*n, sizeof *v, by_step);
    return v;
}
/* What a killed run left half written, or half removed. */
static void checkpoints_sweep(const Trainer *t) {
    DIR *dir = opendir(t->out);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        long long step;
        int end = 0;
        if (sscanf(e->d_name, "checkpoint-%lld.tmp%n", &step, &end) != 1 || !end || e->d_name[end]) continue;
        char *path = path_join(t->out, e->d_name);
        dir_remove(path);
        free(path);
    }
    if (dir) closedir(dir);
}

bool trainer_improves(const Trainer *t, double metric) {
    return isfinite(metric) && (t->best_is_largest ? metric > t->best : metric < t->best);
}
void trainer_save(Trainer *t, const Model *m, double metric) {
    char *path = checkpoint_path(t, t->step), *tmp = dir_begin(path);
    if (trainer_improves(t, metric)) t->best = metric, t->best_step = t->step;
    t->write(t->stage, tmp, metric);
    moments_save(m, tmp);
    cJSON *j = cJSON_CreateObject();
    cJSON_AddNumberToObject(j, "global_step", (double)t->step);
    cJSON_AddNumberToObject(j, "loss_smooth", t->loss_smooth);
    cJSON_AddNumberToObject(j, "loss_low", t->loss_low);
    if (t->best_step >= 0) {
        char *key = strf("best_%s", t->best_name);
        cJSON_AddNumberToObject(j, key, t->best);
        cJSON_AddNumberToObject(j, "best_step", (double)t->best_step);
        free(key);
    }
    cJSON_AddItemToObject(j, "options", options_to_json(&t->options));
    char *text = cJSON_Print(j), *file = path_join(tmp, "trainer_state.json");
    file_write(file, text, strlen(text));
    free(file);
    free(text);
    cJSON_Delete(j);
    dir_commit(tmp, path);
    log_line("save", t->step, "\"path\":\"checkpoint-%lld\"", (long long)t->step);
    free(path);
    if (!t->keep) return;
    int n_saved;
    int64_t *saved = checkpoints(t, &n_saved);
    for (int i = 0; i + t->keep < n_saved; i++) {
        if (saved[i] == t->best_step) continue;
        checkpoint_remove(t, saved[i]);
    }
    free(saved);
}
bool trainer_saved(const Trainer *t) {
    char *here = checkpoint_path(t, t->step);
    bool there = is_dir(here);
    free(here);
    return there;
}

/* ================================================================================================================= *
 * [trainer.resume] The state first, for its options decide what is loaded; the moments when the model exists.        */
int64_t trainer_resume(Trainer *t, const char *resume, char **dir) {
    if (!strcmp(resume, "last")) {
        int n;
        int64_t *v = checkpoints(t, &n);
        if (!n) die("--resume last: %s holds no checkpoint", t->out);
        *dir = checkpoint_path(t, v[n - 1]);
        free(v);
    } else *dir = xstrdup(resume);
    char *path = path_join(*dir, "trainer_state.json");
    char *key = strf("best_%s", t->best_name);
    cJSON *j = json_read(path, JSON_OBJECT);
    const cJSON *step = cJSON_GetObjectItemCaseSensitive(j, "global_step"), *v;
    if (!cJSON_IsNumber(step) || !(step->valuedouble >= 0 && step->valuedouble < 1e15))
        die("%s: not a trainer's state", path);
    options_from_json(&t->options, cJSON_GetObjectItemCaseSensitive(j, "options"), path);
    struct { const char *key; double *value; } number[] = {
        {"loss_smooth", &t->loss_smooth}, {"loss_low", &t->loss_low}, {key, &t->best}};
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        if (cJSON_IsNumber(v = cJSON_GetObjectItemCaseSensitive(j, number[i].key))) *number[i].value = v->valuedouble;
    if (cJSON_IsNumber(v = cJSON_GetObjectItemCaseSensitive(j, "best_step"))) t->best_step = (int64_t)v->valuedouble;
    int64_t at = (int64_t)step->valuedouble;
    cJSON_Delete(j);
    free(key);
    free(path);
    return at;
}
void trainer_moments(Trainer *t, Model *m, const char *dir, int64_t step) {
    char *path = path_join(dir, "optimizer.safetensors");
    Tensors *files = tensors_open(path);
    int n;
    Trained *p = trained_params(m, &n);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < n; i++) {
            char *name = strf("%s.%s", moment_names[k], p[i].name);
            const Tensor *x = tensors_get(files, name, 1, &p[i].p->n);
            if (x->dtype != DT_F32) die("%s: tensor %s is %s, not F32", path, name, dtype_name(x->dtype));
            op.upload(k ? p[i].p->v : p[i].p->m, x->data, x->bytes);
            free(name);
        }
    trained_free(p, n);
    tensors_close(files);
    free(path);
    t->step = step;
    char *best = checkpoint_path(t, t->best_step);
    if (t->best_step >= 0 && !is_dir(best))                           /* resumed into another --out */
        t->best_step = -1, t->best = t->best_is_largest ? -INFINITY : INFINITY;
    free(best);
}

void trainer_claim(const Trainer *t, int64_t from_step, bool overwrite) {
    bool resumed = from_step >= 0;
    int n_old;
    int64_t *old = checkpoints(t, &n_old), last = n_old ? old[n_old - 1] : -1;
    char *config = path_join(t->out, "config.json"), *adapter = path_join(t->out, "adapter_config.json");
    if (!overwrite && resumed && last > from_step)
        die("%s holds checkpoint-%lld, later than step %lld to go on from: --overwrite drops the later ones, or choose "
            "another --out", t->out, (long long)last, (long long)from_step);
    if (!overwrite && !resumed && n_old)
        die("%s holds a run already (checkpoint-%lld): go on with --resume last, start anew with --overwrite, or "
            "choose another --out", t->out, (long long)last);
    if (!overwrite && !resumed && (file_exists(config) || file_exists(adapter)))
        die("%s holds a model already: replace it with --overwrite, or choose another --out", t->out);
    make_dirs(t->out);
    checkpoints_sweep(t);
    for (int i = 0; i < n_old; i++)
        if (old[i] > from_step) checkpoint_remove(t, old[i]);         /* only with --overwrite is there any */
    free(config);
    free(adapter);
    free(old);
}

/* A run killed after its last checkpoint but before its end has still to write its model: the log tells. */
bool trainer_has_finished(const Trainer *t, int64_t step) {
    char *path = path_join(t->out, "log.jsonl"), *text = file_exists(path) ? file_read(path, NULL) : NULL;
    char *line = strf("{\"event\":\"end\",\"step\":%lld,\"reason\":\"finished\"", (long long)step);
    bool found = text && strstr(text, line);
    free(path);
    free(text);
    free(line);
    return found;
}

static void param_copy(Param *p, const Param *from) {
    op.copy(p->master, from->master, p->n * sizeof(float));
    if (p->w.data != (void *)p->master) op.mat_from_f32(&p->w, p->master);
}
void model_copy_weights(Model *m, const Model *from) {
    for (int i = 0; i < m->n_params; i++) param_copy(&m->params[i], &from->params[i]);
}

/* ================================================================================================================= *
 * [trainer.watch] The smoothed loss has risen far above its lowest point: the run is lost, each further step harms.  */
bool trainer_exploded(Trainer *t, double loss) {
    t->loss_smooth = t->step <= 1 ? loss : 0.95 * t->loss_smooth + 0.05 * loss;
    if (t->step <= 1 || t->loss_smooth < t->loss_low) t->loss_low = t->loss_smooth;
    return t->loss_smooth > t->loss_low + (t->loss_low > 2 ? t->loss_low / 2 : 1);
}
const char *trainer_last_good(const Trainer *t) {
    int n;
    int64_t *v = checkpoints(t, &n);
    static char text[4200];
    if (n) snprintf(text, sizeof text, "the last good checkpoint is %s/checkpoint-%lld", t->out, (long long)v[n - 1]);
    else snprintf(text, sizeof text, "no checkpoint had been saved before step %lld", (long long)t->step);
    free(v);
    return text;
}
