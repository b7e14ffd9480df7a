/* lines.h - messages typed by a person, or piped in by a program. */
#pragma once
#include "common.h"

/* Reads stdin from now on. At a terminal with the line editor, if the build found it, and prompts on stderr; the lines
 * typed are kept in history_file (NULL: nowhere). Ctrl-C drops the line that is being typed. */
void lines_open(const char *history_file);
/* One line without its end, or several of which all but the last end with a backslash (it becomes a newline): a new
 * string; NULL at the end of input. */
char *lines_message(void);
void lines_close(void);
/* From now on Ctrl-C sets stop_requested, which is cleared. A second one before this is called again ends the program:
 * nobody is trapped in a loop that does not look. */
void interrupts_arm(void);
