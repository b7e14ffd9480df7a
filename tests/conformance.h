/* conformance.h - what the parts of the conformance program share. */
#pragma once
#include "common.h"

/* Counts and prints one check; safe to call in a child process. */
void check(bool ok, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Runs fn(dir) in a process of its own, its lines headed by name: one that dies is one failure. */
void check_apart(const char *name, void (*fn)(const char *dir), const char *dir);
/* A new directory with the files of dir, each .gz unpacked, without those called leave_out (or NULL): its name. Give it
 * to dir_remove and free. */
char *unpacked(const char *dir, const char *leave_out);

void conformance_tokenizers(const char *dir);   /* DIR/tokenizers/NAME against DIR/tokenizer_goldens/NAME.*jsonl */
void conformance_chat(const char *dir);         /* DIR/tokenizer_goldens/chat.jsonl */
