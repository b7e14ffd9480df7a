/* trainer.h - what every training run does around its steps: learning rates, checkpoints, going on where it stopped.
 *
 * A checkpoint is a directory DIR/checkpoint-STEP: what the stage writes for a model, optimizer.safetensors (AdamW's
 * moments by parameter) and trainer_state.json (step, losses, options). It is there whole or not at all, and a run that
 * goes on from it ends in the same bytes as one that was never stopped. */
#pragma once
#include "common.h"
#include "model.h"
#include <cjson/cJSON.h>

/* ---- learning rate [trainer.schedule] --------------------------------------------------------------------------- */
typedef struct {
    const char *kind;              /* after warm-up: "cosine", "linear", "wsd", "constant" */
    double lr, min_lr;             /* the peak; the last, as a part of it */
    double decay_part;             /* wsd: the part of the steps that decays */
    int64_t warmup, steps;
} Schedule;
double schedule_lr(const Schedule *s, int64_t step);                /* step counts from 1 */

/* ---- options that travel [trainer.options] ---------------------------------------------------------------------- *
 * A run's options travel in its checkpoints, so that resuming needs no other; what a user gives again wins. */
typedef struct { Opt *table; int n; const char *const *stay; } Options;   /* stay: what does not travel, NULL ends */
cJSON *options_to_json(const Options *o);
void options_from_json(const Options *o, const cJSON *j, const char *path);  /* path: whom to blame */

/* ---- the run [trainer.run] -------------------------------------------------------------------------------------- */
typedef struct Trainer {
    const char *out;               /* directory of the run */
    int64_t keep;                  /* checkpoints kept beside the best; 0: all */
    Options options;
    const char *best_name;         /* what the best checkpoint is the best by: "val_loss" */
    bool best_is_largest;          /* accuracy, F1 */
    void (*write)(void *stage, const char *dir, double metric);     /* the model and what belongs to it, into dir */
    void *stage;
    /* what trainer_state.json holds */
    int64_t step;                  /* steps done */
    double loss_smooth, loss_low;
    double best;                   /* infinite (the bad way): none yet */
    int64_t best_step;             /* of a checkpoint that was kept for it; -1: none */
} Trainer;

/* Is metric better than what was best so far? NaN never is. */
bool trainer_improves(const Trainer *t, double metric);
/* resume is a checkpoint, or "last": the last one in t->out. Its directory (a new string) to *dir, its options to the
 * table, its losses to *t. The step is returned and becomes t->step with trainer_moments. */
int64_t trainer_resume(Trainer *t, const char *resume, char **dir);
/* The moments in dir's optimizer.safetensors into m, which trains; then t->step is step. */
void trainer_moments(Trainer *t, Model *m, const char *dir, int64_t step);
/* Makes t->out ready: dies when it holds a run or a model that would be overwritten, removes what a killed run left
 * half written, and with overwrite the checkpoints later than from_step (-1: a new run). */
void trainer_claim(const Trainer *t, int64_t from_step, bool overwrite);
/* Writes checkpoint-STEP; metric (NaN: unknown) makes it the best or not. Removes those that are not kept. */
void trainer_save(Trainer *t, const Model *m, double metric);
bool trainer_saved(const Trainer *t);                              /* is there a checkpoint of this step? */
bool trainer_has_finished(const Trainer *t, int64_t step);         /* does the log say that the run ended with it? */
/* After a step (t->step counts it): has the smoothed loss risen far above its lowest point? */
bool trainer_exploded(Trainer *t, double loss);
const char *trainer_last_good(const Trainer *t);                   /* a sentence on the last checkpoint, for die() */
char *checkpoint_path(const Trainer *t, int64_t step);             /* a new string */
/* The weights of `from`, the same model, into m, which trains. */
void model_copy_weights(Model *m, const Model *from);
