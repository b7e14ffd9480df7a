/* json.h - reading a tokenizer's JSON files, for the loaders. */
#pragma once
#include "parts.h"

#include <cjson/cJSON.h>

/* An id of `token`; dies unless it is a whole number below MAX_IDS. */
uint32_t json_id(const char *path, const char *token, const cJSON *node);
void read_vocab(Loader *l, const cJSON *vocab); /* {token: id, ...} */

static inline const cJSON *json_get(const cJSON *node, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(node, key);
}
static inline const char *json_str(const cJSON *node, const char *key) {
    return cJSON_GetStringValue(json_get(node, key));
}
static inline bool json_true(const cJSON *node, const char *key) { return cJSON_IsTrue(json_get(node, key)); }
static inline bool json_absent(const cJSON *node) { return !node || cJSON_IsNull(node); }
