/* bench/limits.c - what this machine can do at best, and which of its states it is in.
 *
 *     build/gcc/bench_limits [--threads N] [--isa NAME] [--state] [--samples N]
 *
 * Prints one JSON line a sample: the time that a cache line takes from one core to another, the bandwidth of reads, and
 * (without --state) multiply-adds of operands in registers, f32, bf16 and int8. Virtual machines are moved between
 * cores that share a cache and cores that do not: hand-over and bandwidth then change together, some five and two times
 * over, within minutes. So every row of a benchmark is told together with the state that it ran in. */
#include "../common.h"
#include "../kernels.h"
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { TURNS = 10000, BATCHES = 10 };
static _Atomic int ball;
static void *partner(void *unused) {
    for (int i = 0; i < TURNS * BATCHES; i++) {
        while (atomic_load(&ball) != 1) {}
        atomic_store(&ball, 0);
    }
    return unused;
}
/* Nanoseconds of one hand-over: a flag goes there and back; the fastest of several batches, as another program on one
 * of the cores stops both. On one core the two would wait for the scheduler: 0. */
static double handover_ns(void) {
    pthread_t other;
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) || CPU_COUNT(&cpus) < 2) return 0;
    if (pthread_create(&other, NULL, partner, NULL)) die("a second thread could not be started");
    double best = INFINITY;
    for (int batch = 0; batch < BATCHES; batch++) {
        double start = now_s();
        for (int i = 0; i < TURNS; i++) {
            atomic_store(&ball, 1);
            while (atomic_load(&ball) != 0) {}
        }
        best = fmin(best, now_s() - start);
    }
    pthread_join(other, NULL);
    return best / TURNS / 2 * 1e9;
}

int main(int argc, char **argv) {
    bool state = false;
    int64_t samples = 1;
    Opt options[] = {
        {"state", OPT_FLAG, &state, "hand-over and read bandwidth alone: 0.3 s", 0, 0, NULL, NULL, false},
        {"samples", OPT_INT, &samples, "so many lines", 1, 100000, NULL, NULL, false},
        COMMON_OPTS,
    };
    options_parse(argc, argv, 1, "The machine's limits.", options, sizeof options / sizeof *options);
    ops_select(common.device, common.isa, PREC_F32);
    for (int64_t i = 0; i < samples; i++) {
        printf("{\"kernels\":\"%s\",\"handover_ns\":%.1f,\"read_gb_s\":%.2f", op.name, handover_ns(),
            op.peak_read() * 1e-9);
        if (!state)
            printf(",\"f32_gflops\":%.1f,\"bf16_gflops\":%.1f,\"int8_gops\":%.1f", op.peak_flops(PREC_F32) * 1e-9,
                   op.peak_flops(PREC_BF16) * 1e-9, op.peak_flops(PREC_I8) * 1e-9);
        printf("}\n");
        fflush(stdout);
    }
    return 0;
}
