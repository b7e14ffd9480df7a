# tea - Token, Embedding, Attention.
#
#   make            build the five stages           make test        build and run every test
#   make deps       install what the system lacks   make SAN=1 test  the same under the address and UB sanitizers
#   make debug      -O0 -g                          make CUDA=0      without the GPU half
#   make bench      all of it, measured (bench/)    make doc-check   the course's tags
#   make test-gpu   every op, CPU against GPU       make conformance GOLDENS=DIR   against official outputs
#   make found      what the probes found           make CC=clang    another compiler
#
# Objects live in build/COMPILER-MODE/, so switching compiler, sanitizer, debug or CUDA never needs a clean; the programs
# in the root are links to the flavour built last.

CC      ?= gcc
ifeq ($(origin CC),default)
CC      := gcc
endif
NVCC    ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc) nvcc)
CUDA    ?= 1
SAN     ?= 0
DEBUG   ?= 0
WERROR  ?= 0
# Compute capabilities to build for; the newest also as PTX, which later GPUs compile at load.
CUDA_ARCH ?= 80 90
MAKEFLAGS += --no-print-directory -j$(shell nproc 2>/dev/null || echo 2)

STAGES  := $(basename $(wildcard tokenizer.c train.c finetune.c quantize.c infer.c))
CCNAME  := $(notdir $(firstword $(CC)))
MODE    := $(CCNAME)$(if $(filter 1,$(SAN)),-san)$(if $(filter 1,$(DEBUG)),-debug)$(if $(filter 0,$(CUDA)),-nocuda)
BUILD   := build/$(MODE)

# ---- what this machine has: each probe compiles a few lines; the answers stay in build/MODE/found.mk ----------------
-include $(BUILD)/found.mk
$(BUILD)/found.mk: Makefile
	@mkdir -p $(BUILD)
	@try() { printf '%b' "$$1" > $(BUILD)/probe.c; shift; $(CC) $(BUILD)/probe.c -o $(BUILD)/probe "$$@" >/dev/null 2>&1; }; \
	say() { printf '  %-8s %s\n' "$$1" "$$2" >&2; }; \
	: > $@.tmp; put() { echo "$$1 := $$2" >> $@.tmp; }; \
	echo 'int main(void){return 0;}' > $(BUILD)/probe.c; \
	$(CC) $(BUILD)/probe.c -o $(BUILD)/probe >/dev/null 2>&1 || { say compiler "$(CC) does not compile: run make deps" ; exit 1; }; \
	say compiler "$$($(CC) --version | head -n 1)"; \
	arch=$$($(CC) -dumpmachine); put TARGET "$$arch"; \
	if try '#include <omp.h>\nint main(void){return omp_get_max_threads() < 1;}\n' -fopenmp; \
	then put OMP -fopenmp; say OpenMP "yes"; else put OMP ''; say OpenMP "no: one thread only (clang: install libomp-dev)"; fi; \
	for lib in cjson/cJSON.h:-lcjson utf8proc.h:-lutf8proc pcre2.h:-lpcre2-8; do \
	  try "#define PCRE2_CODE_UNIT_WIDTH 8\n#include <$${lib%%:*}>\nint main(void){return 0;}\n" "$${lib##*:}" \
	    || { say "$${lib##*:-l}" "missing: run make deps"; exit 1; }; done; say libraries "cJSON, utf8proc, PCRE2"; \
	if try '#include <histedit.h>\nint main(void){return !el_init;}\n' -ledit; \
	then put EDIT -ledit; say libedit "yes"; else put EDIT ''; say libedit "no: --chat reads plain lines (make deps)"; fi; \
	case $$arch in \
	x86_64*) isas=plain; \
	  try '#include <immintrin.h>\nint main(void){__m256 a=_mm256_setzero_ps();a=_mm256_fmadd_ps(a,a,a);return (int)_mm256_cvtss_f32(a);}\n' -mavx2 -mfma && isas="$$isas avx2"; \
	  try '#include <immintrin.h>\nint main(void){__m512 a=_mm512_setzero_ps();return (int)_mm512_reduce_add_ps(a);}\n' -mavx512f && isas="$$isas avx512"; \
	  try '#include <immintrin.h>\nint main(void){__m512 a=_mm512_setzero_ps();__m512bh b=_mm512_cvtne2ps_pbh(a,a);a=_mm512_dpbf16_ps(a,b,b);return (int)_mm512_reduce_add_ps(a);}\n' -mavx512f -mavx512bf16 -mavx512vnni && isas="$$isas avx512bf16"; \
	  here=$$(grep -m1 '^flags' /proc/cpuinfo 2>/dev/null | tr ' ' '\n' | grep -E '^(avx2|avx512f|avx512_bf16|avx512_vnni)$$' | tr '\n' ' ');; \
	aarch64*) isas="plain neon"; here="neon";; \
	*) isas=plain; here=;; esac; \
	put ISAS "$$isas"; say vectors "compiled: $$isas; this CPU: $${here:-plain}"; \
	if [ "$(CUDA)" = 1 ] && $(NVCC) --version >/dev/null 2>&1; then \
	  root=$$(dirname $$(dirname $$(readlink -f $$(command -v $(NVCC))))); \
	  lib=$$root/lib64; [ -d $$lib ] || lib=$$root/lib; \
	  put HAVE_CUDA 1; put CUDA_LIB "$$lib"; say CUDA "$$($(NVCC) --version | grep -o 'release [0-9.]*') in $$root"; \
	  if try '#include <nccl.h>\nint main(void){return 0;}\n' -I$$root/include -L$$lib -lnccl; \
	  then say NCCL "yes (not used yet)"; else say NCCL "no"; fi; \
	elif [ "$(CUDA)" = 1 ]; then put HAVE_CUDA ''; say CUDA "no nvcc: CPU only"; \
	else put HAVE_CUDA ''; say CUDA "left out (CUDA=0)"; fi; \
	if command -v mpicc >/dev/null 2>&1; then say MPI "$$(mpicc --version | head -n 1) (not used yet)"; else say MPI "no"; fi; \
	rm -f $(BUILD)/probe $(BUILD)/probe.c; mv $@.tmp $@

# ---- flags ----------------------------------------------------------------------------------------------------------
WARN    := -Wall -Wextra -Wshadow -Wno-unknown-pragmas $(if $(findstring clang,$(CC)),-Wno-pass-failed) $(if $(filter 1,$(WERROR)),-Werror)
comma   := ,
# SAN: -g1 is enough for its reports, and halves the time that the instrumented kernels take to compile.
OPT     := $(if $(filter 1,$(DEBUG)),-O0 -g3,$(if $(filter 1,$(SAN)),-O1 -g1,-O2 -g)) $(if $(filter 1,$(SAN)),-fsanitize=address$(comma)undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
# Loops vectorise without errno and traps; nothing that breaks NaN or infinity.
DIALECT := -std=gnu11 -D_GNU_SOURCE -fno-math-errno -fno-trapping-math $(WARN) $(OMP) $(if $(HAVE_CUDA),-DCUDA)
CFLAGS  += $(DIALECT) $(OPT)
KFLAGS  := $(DIALECT) $(subst -O2,-O3,$(OPT))
AVX512  := -mprfchw -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
K_plain      := -DFLAVOUR_IS_PLAIN
K_avx2       := -mavx2 -mfma -mf16c
K_avx512     := $(AVX512)
K_avx512bf16 := $(AVX512) -mavx512bf16 -mavx512vnni
K_neon       :=
NVFLAGS := -x cu -Xcompiler -fPIC -std=c++17 -O3 -lineinfo --Werror all-warnings -Xcompiler -Wall \
           $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) \
           -gencode arch=compute_$(lastword $(CUDA_ARCH)),code=compute_$(lastword $(CUDA_ARCH))
# What edits lines is for infer --chat alone: a library less for the rest to load.
$(BUILD)/infer: LIBS += $(EDIT)
$(BUILD)/lines.o: CFLAGS += $(if $(EDIT),-DHAVE_LIBEDIT)
LIBS    := -lcjson -lutf8proc -lpcre2-8 -lm $(if $(HAVE_CUDA),-rdynamic -ldl)
# The GPU half is a library that --device cuda loads: its dependencies cost nobody else a start.
CUDA_SO := $(if $(HAVE_CUDA),$(BUILD)/libtea-cuda.so)

# ---- objects --------------------------------------------------------------------------------------------------------
KERNEL_SRC := kernels.cu kernels.h common.h $(wildcard kernels/*.cuh)
KERNEL_OBJ := $(ISAS:%=$(BUILD)/kernels.%.o)
TOK_OBJ := $(patsubst tokenizers/%.c,$(BUILD)/tok_%.o,$(wildcard tokenizers/*.c))
LIB_OBJ := $(addprefix $(BUILD)/,common.o report.o lines.o chat.o weights.o quantized.o gguf.o dataset.o corpus.o model.o trainer.o samples.o evaluate.o profile.o) $(TOK_OBJ) $(KERNEL_OBJ)
TESTS   := $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/test_*.c))
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench_%,$(wildcard bench/*.c))

.PHONY: all deps debug test test-gpu bench bench-programs doc-check found clean lib conformance
.DEFAULT_GOAL := all
all: $(STAGES:%=$(BUILD)/%) $(BUILD)/corpus $(CUDA_SO)
	@for s in $(STAGES); do ln -sf $(BUILD)/$$s $$s; done; ln -sf $(if $(filter /%,$(BUILD)),,../)$(BUILD)/corpus data/corpus

$(BUILD)/%.o: %.c | $(BUILD)/found.mk
	$(CC) $(CFLAGS) -MMD -c $< -o $@
$(BUILD)/tok_%.o: tokenizers/%.c | $(BUILD)/found.mk
	$(CC) $(CFLAGS) -O3 -MMD -c $< -o $@
$(BUILD)/corpus.o: data/corpus.c | $(BUILD)/found.mk
	$(CC) $(CFLAGS) -MMD -c $< -o $@
$(BUILD)/kernels.cuda_f32.o: $(KERNEL_SRC) | $(BUILD)/found.mk
	$(NVCC) $(NVFLAGS) -DFLAVOUR=cuda_f32 -c kernels.cu -o $@
$(BUILD)/kernels.cuda_bf16.o: $(KERNEL_SRC) | $(BUILD)/found.mk
	$(NVCC) $(NVFLAGS) -DFLAVOUR=cuda_bf16 -DACT_BF16 -c kernels.cu -o $@
$(BUILD)/libtea-cuda.so: $(BUILD)/kernels.cuda_f32.o $(BUILD)/kernels.cuda_bf16.o
	$(CC) -shared $^ -o $@ -L$(CUDA_LIB) -Wl,-rpath,$(CUDA_LIB) -lcublasLt -lcudart -lstdc++
$(BUILD)/kernels.%.o: $(KERNEL_SRC) | $(BUILD)/found.mk
	$(CC) -x c $(KFLAGS) $(K_$*) -DFLAVOUR=$* -c kernels.cu -o $@
$(BUILD)/libtea.a: $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^
lib: $(BUILD)/libtea.a

$(STAGES:%=$(BUILD)/%): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libtea.a
	$(CC) $(CFLAGS) $^ -o $@ $(LIBS)
$(BUILD)/corpus: data/corpus.c $(BUILD)/libtea.a
	$(CC) $(CFLAGS) -DCORPUS_MAIN data/corpus.c $(BUILD)/libtea.a -o $@ $(LIBS)
$(TESTS): $(BUILD)/%: tests/%.c $(BUILD)/libtea.a tests/test.h
	$(CC) $(CFLAGS) -Wno-shadow -I. $< $(BUILD)/libtea.a -o $@ $(LIBS)
$(BUILD)/test_quantize $(BUILD)/test_gguf: quantize.c
CONFORMANCE := $(wildcard tests/conformance*.c)
$(BUILD)/conformance: $(CONFORMANCE) tests/conformance.h $(BUILD)/libtea.a
	$(CC) $(CFLAGS) -Wno-shadow -I. $(CONFORMANCE) $(BUILD)/libtea.a -o $@ $(LIBS)
$(BENCHES): $(BUILD)/bench_%: bench/%.c $(BUILD)/libtea.a
	$(CC) $(CFLAGS) -Wno-shadow -I. $< $(BUILD)/libtea.a -o $@ $(LIBS)
-include $(wildcard $(BUILD)/*.d)

# ---- tasks ----------------------------------------------------------------------------------------------------------
debug:
	@$(MAKE) DEBUG=1 all
test: all $(TESTS) $(BUILD)/conformance
	@BUILD=$(BUILD) sh tests/run.sh
test-gpu: all $(CUDA_SO) $(BUILD)/test_gpu
	$(BUILD)/test_gpu
bench-programs: $(BENCHES)
# BENCH: options of bench/all.py, "--quick" for a first look.
BENCH ?=
bench: all bench-programs
	@python3 -B bench/all.py --build $(BUILD) $(BENCH)
conformance: $(BUILD)/conformance $(BUILD)/quantize
	$(BUILD)/conformance $(GOLDENS) --quantize $(BUILD)/quantize
doc-check:
	@sh tests/doc-check.sh
# The chapters' exercises: doc/exercises/NAME.c is yours to solve, tests/exercise_NAME.c judges it.
exercise-%: $(BUILD)/libtea.a
	@$(CC) $(CFLAGS) -Wno-unused-parameter -I. tests/exercise_$*.c doc/exercises/$*.c $(BUILD)/libtea.a -o $(BUILD)/exercise_$* $(LIBS)
	@$(BUILD)/exercise_$*
found: ; @rm -f $(BUILD)/found.mk; $(MAKE) $(BUILD)/found.mk
clean: ; rm -rf build $(STAGES) data/corpus

PACKAGES := gcc make libcjson-dev libutf8proc-dev libpcre2-dev libedit-dev
deps:
	@if ! command -v apt-get >/dev/null; then \
	  echo "make deps knows apt only. Install by hand: a C compiler with OpenMP, make, cJSON, utf8proc, PCRE2 (with headers)."; exit 1; fi
	@missing=; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then echo "nothing to install"; else \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing; fi
