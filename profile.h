/* profile.h - where the time goes: each op's calls, time, FLOPs and bytes, beside what the machine can do. */
#pragma once
#include "common.h"
#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* From now on every op is timed. To be called after ops_select; the limits are measured here, 0.2 s. An op costs some
 * 50 ns more; on a GPU each op is waited for, so that its time is its own. */
void profile_begin(Precision precision);
/* Forgets what was counted: what came before was warming up. */
void profile_reset(void);
/* The table on stderr, the op that took longest first; and to the run's log, if one is open, as event "profile". */
void profile_end(int64_t step);

#ifdef __cplusplus
}
#endif
