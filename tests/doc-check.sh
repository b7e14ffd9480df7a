#!/bin/sh
# doc-check.sh - the course cites code by tags, never by line numbers. A tag is [subject.name] at the start of a comment
# in a source file. Fails on a tag defined twice, a citation of a tag that does not exist, a chapter whose two languages
# cite different tags, and on a tag of a subject that has a chapter which this chapter does not cite.
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
fail=0
say() { echo "FAIL  $*"; fail=$((fail + 1)); }
pattern='\[[a-z]+\.[a-z0-9_]+\]'
# Defined: "// [tag]", "/* [tag]" or " * [tag]" opening a comment, in C and CUDA sources. The map in a file's head and
# kernels.h's and kernels.cu's indexes name tags without a comment opener of their own.
grep -hoE "(//|/\*) $pattern" ./*.c ./*.cu kernels/*.cuh tokenizers/*.[ch] data/*.c 2>/dev/null | grep -oE "$pattern" | sort > "$tmp/defined"
grep -hE "^ \* $pattern" ./*.c kernels/*.cuh tokenizers/*.[ch] 2>/dev/null | grep -oE "^ \* $pattern" | grep -oE "$pattern" | sort >> "$tmp/defined"
sort "$tmp/defined" | uniq -d > "$tmp/double"
while read -r t; do say "$t is defined more than once"; done < "$tmp/double"
sort -u "$tmp/defined" > "$tmp/tags"
n_cited=0
for en in doc/en/*.md; do
    [ -f "$en" ] || continue
    zh=doc/zh/$(basename "$en")
    [ -f "$zh" ] || { say "$zh is missing"; continue; }
    grep -oE "$pattern" "$en" | sort -u > "$tmp/en"
    grep -oE "$pattern" "$zh" | sort -u > "$tmp/zh"
    cmp -s "$tmp/en" "$tmp/zh" || say "$en and $zh cite different tags: $(comm -3 "$tmp/en" "$tmp/zh" | tr -d '\t' | tr '\n' ' ')"
    for t in $(comm -23 "$tmp/en" "$tmp/tags"); do say "$en cites $t, which no source defines"; done
    subject=$(sed -n 's/.*<!-- subject: \([a-z]*\) -->.*/\1/p' "$en")
    [ -n "$subject" ] || say "$en names no subject (<!-- subject: NAME -->)"
    for t in $(grep -E "^\[$subject\." "$tmp/tags" | comm -23 - "$tmp/en"); do say "$en does not cite $t"; done
    n_cited=$((n_cited + $(wc -l < "$tmp/en")))
done
echo "doc-check: $(wc -l < "$tmp/tags") tags, $n_cited citations"
if [ $fail = 0 ]; then echo "1 passed, 0 failed"; else echo "0 passed, $fail failed"; exit 1; fi
