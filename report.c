/* report.c - a run as one page: log.jsonl -> report.html, with its settings, curves, evaluations and samples.
 *
 * The page is self-contained: styles inline, charts as SVG drawn here, a few lines of script for the value under the
 * pointer. It opens from disk without a network, prints, follows the reader's light or dark theme, and reads without
 * the script. Every field of the log is optional, every unknown numeric field of a step gets a small chart of its own,
 * so a stage that logs something new changes nothing here.
 *
 * Try it:  ./train --steps 200, then open out/report.html
 *
 * Map:  [report.read] the log in memory   [report.text] escaping, numbers   [report.chart] one chart   [report.page]
 *
 * Refused here: statistics. What is drawn is what was logged, thinned and smoothed, and it says so. */
#include "common.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the log in memory ----------------------------------------------------------------------- [report.read] ---- */

typedef struct {
    char *key;
    double *step, *value;
    size_t n, cap;
    size_t n_null;          /* steps whose value was not finite: written as null */
    double first_null;      /* the first of them */
} Series;

typedef struct {
    Series *curves;         /* of "step" events, in order of first appearance */
    int n_curves;
    Series val_loss;
    cJSON **evals, **samples, **modules;
    int n_evals, n_samples, n_modules;
    cJSON *start, *end, *profile; /* the last of each; a resumed run has several starts */
    int n_starts;
    double last_step;
    size_t n_steps;
} Run;

static void series_add(Series *s, double step, const cJSON *value) {
    if (!cJSON_IsNumber(value) || !isfinite(value->valuedouble)) { /* 1e999 is a number to JSON and infinity to us */
        if ((cJSON_IsNull(value) || cJSON_IsNumber(value)) && !s->n_null++) s->first_null = step;
        return;
    }
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 256;
        s->step = xrealloc(s->step, s->cap * sizeof *s->step);
        s->value = xrealloc(s->value, s->cap * sizeof *s->value);
    }
    s->step[s->n] = step;
    s->value[s->n++] = value->valuedouble;
}

static Series *curve(Run *r, const char *key, bool make) {
    enum { CURVES_MAX = 24 }; /* a page of more would be read by nobody */
    for (int i = 0; i < r->n_curves; i++)
        if (!strcmp(r->curves[i].key, key)) return &r->curves[i];
    if (!make || r->n_curves == CURVES_MAX) return NULL;
    r->curves = xrealloc(r->curves, sizeof *r->curves * (size_t)(r->n_curves + 1));
    r->curves[r->n_curves] = (Series){.key = xstrdup(key)};
    return &r->curves[r->n_curves++];
}

static void keep(cJSON ***list, int *n, cJSON *event) {
    *list = xrealloc(*list, sizeof **list * (size_t)(*n + 1));
    (*list)[(*n)++] = event;
}

static bool is_frame_key(const char *key) { return !strcmp(key, "event") || !strcmp(key, "step"); }

static Run run_read(const char *path) {
    Run r = {.val_loss.key = xstrdup("val_loss")};
    char *text = file_read(path, NULL);
    for (char *line = text, *next; line; line = next) {
        if ((next = strchr(line, '\n'))) *next++ = 0;
        cJSON *event = cJSON_Parse(line); /* a half-written last line is skipped, like anything that is no object */
        const cJSON *kind = cJSON_GetObjectItemCaseSensitive(event, "event");
        const cJSON *at = cJSON_GetObjectItemCaseSensitive(event, "step");
        if (!cJSON_IsString(kind)) {
            cJSON_Delete(event);
            continue;
        }
        double step = cJSON_IsNumber(at) ? at->valuedouble : 0;
        if (step > r.last_step) r.last_step = step;
        if (!strcmp(kind->valuestring, "step")) {
            r.n_steps++;
            for (const cJSON *field = event->child; field; field = field->next)
                if (!is_frame_key(field->string) && (cJSON_IsNumber(field) || cJSON_IsNull(field))) {
                    Series *s = curve(&r, field->string, true);
                    if (s) series_add(s, step, field);
                }
        } else if (!strcmp(kind->valuestring, "eval")) {
            series_add(&r.val_loss, step, cJSON_GetObjectItemCaseSensitive(event, "val_loss"));
            keep(&r.evals, &r.n_evals, event), event = NULL;
        } else if (!strcmp(kind->valuestring, "sample")) {
            keep(&r.samples, &r.n_samples, event), event = NULL;
        } else if (!strcmp(kind->valuestring, "module")) {
            keep(&r.modules, &r.n_modules, event), event = NULL;
        } else if (!strcmp(kind->valuestring, "start")) {
            cJSON_Delete(r.start);
            r.start = event, event = NULL, r.n_starts++;
        } else if (!strcmp(kind->valuestring, "profile")) {
            cJSON_Delete(r.profile);
            r.profile = event, event = NULL;
        } else if (!strcmp(kind->valuestring, "end")) {
            cJSON_Delete(r.end);
            r.end = event, event = NULL;
        }
        cJSON_Delete(event);
    }
    free(text);
    return r;
}

static void run_free(Run *r) {
    for (int i = 0; i < r->n_curves; i++) free(r->curves[i].key), free(r->curves[i].step), free(r->curves[i].value);
    for (int i = 0; i < r->n_evals; i++) cJSON_Delete(r->evals[i]);
    for (int i = 0; i < r->n_samples; i++) cJSON_Delete(r->samples[i]);
    for (int i = 0; i < r->n_modules; i++) cJSON_Delete(r->modules[i]);
    free(r->modules);
    free(r->val_loss.key), free(r->val_loss.step), free(r->val_loss.value);
    free(r->curves), free(r->evals), free(r->samples);
    cJSON_Delete(r->start);
    cJSON_Delete(r->profile);
    cJSON_Delete(r->end);
}

/* ---- text ------------------------------------------------------------------------------------ [report.text] ---- */

static void add_escaped(Buf *b, const char *s) { /* safe as text and inside a quoted attribute */
    for (; *s; s++) {
        if (*s == '&') buf_str(b, "&amp;");
        else if (*s == '<') buf_str(b, "&lt;");
        else if (*s == '>') buf_str(b, "&gt;");
        else if (*s == '"') buf_str(b, "&quot;");
        else if (*s == '\'') buf_str(b, "&#39;");
        else buf_add(b, s, 1);
    }
}

static void add_words(Buf *b, const char *key) { /* grad_norm -> grad norm; the styles make headings of it */
    Buf words = {0};
    buf_str(&words, key);
    for (size_t i = 0; i < words.len; i++)
        if (words.data[i] == '_') words.data[i] = ' ';
    add_escaped(b, words.data);
    buf_free(&words);
}

static void add_number(Buf *b, double x) { /* 20,000   3.217   3e-05 */
    if (x != floor(x) || fabs(x) >= 1e15) {
        buf_fmt(b, "%.5g", x);
        return;
    }
    char digits[32];
    int n = snprintf(digits, sizeof digits, "%.0f", fabs(x));
    if (x < 0) buf_str(b, "\xE2\x88\x92"); /* a true minus sign */
    for (int i = 0; i < n; i++) buf_fmt(b, "%s%c", i && n > 4 && (n - i) % 3 == 0 ? "," : "", digits[i]);
}

static void add_value(Buf *b, const cJSON *v) {
    if (cJSON_IsNumber(v)) add_number(b, v->valuedouble);
    else if (cJSON_IsString(v)) add_escaped(b, v->valuestring);
    else if (cJSON_IsBool(v)) buf_str(b, cJSON_IsTrue(v) ? "yes" : "no");
    else if (!v || cJSON_IsNull(v)) buf_str(b, "\xE2\x80\x93");
    else {
        char *json = cJSON_PrintUnformatted(v);
        add_escaped(b, json ? json : "");
        cJSON_free(json);
    }
}

/* ---- one chart ------------------------------------------------------------------------------ [report.chart] ---- */

typedef struct {
    double width, height;           /* of the drawing, in its own units */
    double left, right, top, bottom;/* of the frame inside it */
    size_t stretches;               /* of the thinning */
    double x0, x1, y0, y1;          /* values at its edges */
} Frame;

static double px(const Frame *f, double x) { return f->left + (x - f->x0) / (f->x1 - f->x0) * (f->right - f->left); }
static double py(const Frame *f, double y) {
    double p = f->bottom - (y - f->y0) / (f->y1 - f->y0) * (f->bottom - f->top);
    return p < -1e4 ? -1e4 : p > 1e4 ? 1e4 : p; /* far outside the frame, where it is clipped: keeps numbers short */
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { SMOOTH_FROM = 30 }; /* values; fewer are best seen as they are */

/* Moving average, centred so that it does not lag. The window is an eightieth of the run to either side, less near the
 * start, where the loss falls so fast that a wide one would round the corner off. */
static double *smoothed(const Series *s) {
    double *out = xmalloc(s->n * sizeof *out), *sum = xmalloc((s->n + 1) * sizeof *sum);
    sum[0] = 0;
    for (size_t i = 0; i < s->n; i++) sum[i + 1] = sum[i] + s->value[i];
    for (size_t i = 0; i < s->n; i++) {
        size_t half = s->n / 80 + 2 < i / 3 ? s->n / 80 + 2 : i / 3;
        size_t end = i + half + 1 < s->n ? i + half + 1 : s->n;
        out[i] = (sum[end] - sum[i - half]) / (double)(end - (i - half));
    }
    free(sum);
    return out;
}

/* Thinning: of each of so many stretches the lowest and the highest value, in their order, so that no spike is lost.
 * A stretch gives two points at most. */
enum { STRETCHES_LARGE = 500, STRETCHES_SMALL = 160 };
typedef struct { size_t at[2 * STRETCHES_LARGE]; size_t n; } Pick;

static void thin(Pick *p, const double *value, size_t n, size_t stretches) {
    p->n = 0;
    if (n <= 2 * stretches) {
        while (p->n < n) p->at[p->n] = p->n, p->n++;
        return;
    }
    for (size_t s = 0; s < stretches; s++) {
        size_t first = n * s / stretches, end = n * (s + 1) / stretches, low = first, high = first;
        for (size_t i = first; i < end; i++) {
            if (value[i] < value[low]) low = i;
            if (value[i] > value[high]) high = i;
        }
        p->at[p->n++] = low < high ? low : high;
        if (low != high) p->at[p->n++] = low < high ? high : low;
    }
}

static void add_line(Buf *b, const Frame *f, const char *class, const double *step, const double *value, size_t n) {
    Pick p;
    thin(&p, value, n, f->stretches);
    buf_fmt(b, "<polyline class=\"%s\" points=\"", class);
    for (size_t i = 0; i < p.n; i++)
        buf_fmt(b, "%s%.1f,%.1f", i ? " " : "", px(f, step[p.at[i]]), py(f, value[p.at[i]]));
    buf_str(b, "\"/>");
}

static double nice_step(double range, int about) { /* 1, 2 or 5 times a power of ten */
    double raw = range / about, power = pow(10, floor(log10(raw))), lead = raw / power;
    return power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
}

static const char *tick_label(double v, double largest, double step) {
    static char text[32];
    int decimals = (int)-floor(log10(step) + 1e-9);
    if (fabs(v) < step / 1e6) return "0";
    if (largest >= 1e4) return human_count(v);
    if (largest < 0.01) snprintf(text, sizeof text, "%.3g", v);
    else snprintf(text, sizeof text, "%.*f", decimals > 0 ? decimals : 0, v);
    return text;
}

static void add_axes(Buf *b, const Frame *f, int n_x, int n_y) {
    double step = nice_step(f->y1 - f->y0, n_y), largest = fmax(fabs(f->y0), fabs(f->y1));
    for (double v = ceil(f->y0 / step - 1e-9) * step; v <= f->y1 + step * 1e-9; v += step) {
        double y = py(f, v);
        buf_fmt(b, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", f->left, y, f->right);
        buf_fmt(b, "<text class=\"y\" x=\"%.1f\" y=\"%.1f\">%s</text>", f->left - 7, y + 3.5,
                tick_label(v, largest, step));
    }
    step = fmax(1, nice_step(f->x1 - f->x0, n_x)); /* steps are whole */
    for (double v = ceil(f->x0 / step - 1e-9) * step; v <= f->x1 + step * 1e-9; v += step) {
        double x = px(f, v);
        buf_fmt(b, "<path class=\"tick\" d=\"M%.1f %.1fv4\"/>", x, f->bottom);
        buf_fmt(b, "<text class=\"x\" x=\"%.1f\" y=\"%.1f\">%s</text>", x, f->bottom + 17,
                tick_label(v, fabs(f->x1), step));
    }
    buf_fmt(b, "<path class=\"axis\" d=\"M%.1f %.1fH%.1f\"/>", f->left, f->bottom, f->right);
}

/* A chart of s, with points (may be NULL or empty) over it. from_zero: the value axis begins at 0. smooth: the curve
 * gets a moving average over it. */
static void add_chart(Buf *b, const Series *s, const Series *points, bool large, bool from_zero, bool smooth) {
    static int n_charts; /* clip paths need names that differ within the page */
    int id = n_charts++;
    Frame f = {.width = 320, .height = 180, .left = 48, .right = 312, .top = 8, .bottom = 152,
               .stretches = STRETCHES_SMALL};
    if (large) f = (Frame){.width = 960, .height = 360, .left = 46, .right = 948, .top = 10, .bottom = 330,
                           .stretches = STRETCHES_LARGE};
    size_t n_points = points ? points->n : 0;
    smooth = smooth && s->n >= SMOOTH_FROM;
    double *average = smooth ? smoothed(s) : NULL, low = INFINITY, high = -INFINITY, peak = -INFINITY, peak_step = 0;
    f.x0 = INFINITY, f.x1 = -INFINITY;

    /* The frame holds the average, the points and all but the wildest 1% on either side: one spike must not flatten
     * the curve. What is above the frame is clipped, and named below the chart. */
    if (s->n) {
        double *sorted = xmalloc(s->n * sizeof *sorted);
        memcpy(sorted, s->value, s->n * sizeof *sorted);
        qsort(sorted, s->n, sizeof *sorted, ascending);
        size_t spared = s->n / 100;
        low = sorted[spared], high = sorted[s->n - 1 - spared];
        free(sorted);
    }
    for (size_t i = 0; i < s->n; i++) {
        if (average) low = fmin(low, average[i]), high = fmax(high, average[i]);
        if (s->value[i] > peak) peak = s->value[i], peak_step = s->step[i];
        f.x0 = fmin(f.x0, s->step[i]), f.x1 = fmax(f.x1, s->step[i]);
    }
    for (size_t i = 0; i < n_points; i++) {
        low = fmin(low, points->value[i]), high = fmax(high, points->value[i]);
        f.x0 = fmin(f.x0, points->step[i]), f.x1 = fmax(f.x1, points->step[i]);
    }
    if (from_zero) low = fmin(low, 0), high = fmax(high, 0);
    if (s->n && peak - low <= 1.5 * (high - low)) high = fmax(high, peak); /* no spike: all of it fits */
    double margin = high > low ? (high - low) * 0.05 : fmax(fabs(high) * 0.1, 1e-9); /* a constant: in the middle */
    f.y0 = from_zero && low == 0 ? 0 : low - margin;
    f.y1 = high + margin;
    if (!(f.x1 > f.x0)) f.x0 -= 1, f.x1 += 1;
    else if (f.x0 == 1 && f.x1 > 20) f.x0 = 0;

    buf_fmt(b, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\"", f.width, f.height);
    buf_fmt(b, " data-x=\"%.0f %.0f %.1f %.1f\"", f.x0, f.x1, f.left, f.right); /* for the script: values, positions */
    buf_fmt(b, " data-y=\"%.9g %.9g %.1f %.1f\" data-p=\"", f.y0, f.y1, f.bottom, f.top);
    Pick p;
    thin(&p, s->value, s->n, f.stretches);
    for (size_t i = 0; i < p.n; i++) buf_fmt(b, "%s%.0f %.5g", i ? "," : "", s->step[p.at[i]], s->value[p.at[i]]);
    buf_str(b, "\" aria-label=\"");
    add_words(b, s->key);
    buf_fmt(b, " by step\"><clipPath id=\"c%d\"><rect x=\"%.0f\" y=\"%.0f\" ", id, f.left - 5, f.top - 4);
    buf_fmt(b, "width=\"%.0f\" height=\"%.0f\"/></clipPath>", f.right - f.left + 10, f.bottom - f.top + 4);
    add_axes(b, &f, large ? 10 : 4, large ? 6 : 4);
    buf_fmt(b, "<g clip-path=\"url(#c%d)\">", id);
    if (s->n == 1)
        buf_fmt(b, "<circle class=\"one\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>", px(&f, s->step[0]), py(&f, s->value[0]));
    else if (s->n) add_line(b, &f, average ? "raw" : "line", s->step, s->value, s->n);
    if (average) add_line(b, &f, "line", s->step, average, s->n);
    if (n_points > 1) add_line(b, &f, "points", points->step, points->value, n_points);
    if (n_points) thin(&p, points->value, n_points, f.stretches);
    for (size_t i = 0; i < (n_points ? p.n : 0); i++) {
        double step = points->step[p.at[i]], value = points->value[p.at[i]];
        buf_fmt(b, "<circle class=\"point\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"><title>step ", px(&f, step), py(&f, value),
                p.n > 100 ? "1.5" : "3.5");
        add_number(b, step);
        buf_fmt(b, ": %.5g</title></circle>", value);
    }
    buf_str(b, "</g><g class=\"cursor\"></g></svg>");
    if (peak > f.y1 + margin) {
        buf_fmt(b, "<p class=\"note\">The peak of %.5g at step ", peak);
        add_number(b, peak_step);
        buf_str(b, " is above the frame.</p>");
    }
    if (s->n_null) {
        buf_str(b, "<p class=\"note bad\">Not finite at ");
        add_number(b, (double)s->n_null);
        buf_fmt(b, " step%s, first at step ", s->n_null == 1 ? "" : "s");
        add_number(b, s->first_null);
        buf_str(b, ".</p>");
    }
    free(average);
}

/* ---- the page -------------------------------------------------------------------------------- [report.page] ---- */

static const char style[] =
    ":root{color-scheme:light dark;--paper:#fbfaf6;--card:#fff;--ink:#23211d;--soft:#7b756a;--rule:#e6e1d6;"
    "--tea:#2f7d55;--amber:#c4620f;--bad:#b3261e}"
    "@media(prefers-color-scheme:dark){:root{--paper:#161512;--card:#1e1c19;--ink:#ece8df;--soft:#9d968a;"
    "--rule:#34312b;--tea:#79c99c;--amber:#f0a35a;--bad:#ff8a80}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);"
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI','Noto Sans',sans-serif;font-variant-numeric:tabular-nums}"
    "main{max-width:1060px;margin:0 auto;padding:44px 28px 72px}"
    "h1,h2{font-family:Charter,'Bitstream Charter','Sitka Text',Cambria,Georgia,serif;font-weight:600;line-height:1.2}"
    "h1{font-size:34px;margin:0}h2{font-size:20px;margin:44px 0 12px}h3{font-size:13px;font-weight:600;margin:0 0 8px}"
    "h3::first-letter{text-transform:uppercase}"
    ".lead{color:var(--soft);margin:6px 0 0}"
    ".tiles{display:flex;flex-wrap:wrap;gap:14px 44px;margin:28px 0 0;padding:18px 0;border:solid var(--rule);"
    "border-width:1px 0}.tiles b{display:block;font-size:25px;font-weight:600;line-height:1.2;letter-spacing:-.01em}"
    ".tiles span{color:var(--soft);font-size:13px}"
    ".card{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:16px 16px 8px;min-width:0}"
    ".grid3{display:grid;grid-template-columns:repeat(auto-fill,minmax(280px,1fr));gap:16px;margin-top:16px}"
    ".legend{color:var(--soft);font-size:13px;margin:0 0 10px;display:flex;flex-wrap:wrap;gap:4px 22px}"
    ".legend i{display:inline-block;width:20px;height:0;border-top:2px solid;margin-right:7px;vertical-align:4px}"
    ".legend .l{color:var(--tea)}.legend .r{color:var(--tea);border-top-width:1px;opacity:.55}"
    ".legend .p{width:9px;height:9px;border:0;border-radius:50%;background:var(--amber);vertical-align:0}"
    "svg{display:block;width:100%;height:auto;overflow:visible;font-size:11px}svg text{fill:var(--soft)}"
    ".y{text-anchor:end}.x{text-anchor:middle}path{fill:none}svg .grid{stroke:var(--rule)}svg .tick,svg .axis{stroke:"
    "var(--soft);opacity:.6}polyline{fill:none;stroke-linejoin:round;stroke:var(--tea)}.raw{stroke-width:1;opacity:.38}"
    ".line{stroke-width:2}.points{stroke:var(--amber)!important;stroke-width:1;opacity:.45}"
    ".point{fill:var(--amber);stroke:var(--card);stroke-width:1.2}.one{fill:var(--tea)}"
    ".cursor path{stroke:var(--soft);stroke-dasharray:2 3}.cursor circle{fill:var(--ink)}"
    ".cursor text{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px}"
    ".note{color:var(--soft);font-size:12.5px;margin:4px 0 6px}.bad{color:var(--bad)}"
    "table{border-collapse:collapse;font-size:14px}th{font-weight:600;text-align:left;color:var(--soft);font-size:13px}"
    "th,td{padding:5px 26px 5px 0;border-bottom:1px solid var(--rule)}.wide{overflow-x:auto}"
    ".bar{display:block;height:12px;background:color-mix(in srgb,var(--tea) 28%,transparent)}.bar span{display:block;"
    "height:12px;background:var(--tea)}"
    ".numbers th,.numbers td{text-align:right}.best{color:var(--amber);font-weight:600}"
    "dl{columns:3 260px;column-gap:36px;margin:0;font-size:14px}"
    "dl div{display:flex;justify-content:space-between;gap:16px;padding:4px 0;border-bottom:1px solid var(--rule);"
    "break-inside:avoid}dt{color:var(--soft);white-space:nowrap}dd{margin:0;text-align:right;overflow-wrap:anywhere}"
    "figure{margin:0 0 18px;display:grid;grid-template-columns:92px 1fr;gap:0 14px}"
    "figcaption{color:var(--soft);font-size:13px;text-align:right;padding-top:2px}"
    "blockquote{margin:0;padding:0 0 0 16px;border-left:2px solid var(--tea);white-space:pre-wrap;"
    "overflow-wrap:anywhere;max-height:20em;overflow-y:auto;"
    "font-family:Charter,'Bitstream Charter','Sitka Text',Cambria,Georgia,serif;font-size:16px}"
    "blockquote b{color:var(--tea);font-weight:600}footer{margin-top:56px;color:var(--soft);font-size:13px}"
    "@media(max-width:640px){.loss{overflow-x:auto}.loss svg{min-width:600px}main{padding:24px 16px}"
    "figure{grid-template-columns:1fr}figcaption{text-align:left}}"
    "@media print{.card,figure{break-inside:avoid}}";

/* The logged value nearest to the pointer: a vertical line, a dot, and "step: value". */
static const char script[] =
    "document.querySelectorAll('svg[data-p]').forEach(s=>{"
    "const g=s.querySelector('.cursor'),num=a=>a.split(' ').map(Number);"
    "const p=s.dataset.p?s.dataset.p.split(',').map(num):[],X=num(s.dataset.x),Y=num(s.dataset.y);"
    "const at=(v,A)=>A[2]+(v-A[0])/(A[1]-A[0])*(A[3]-A[2]);if(!p.length)return;"
    "s.addEventListener('pointerleave',()=>g.innerHTML='');"
    "s.addEventListener('pointermove',e=>{"
    "const m=new DOMPoint(e.clientX,e.clientY).matrixTransform(s.getScreenCTM().inverse());"
    "const v=X[0]+(m.x-X[2])/(X[3]-X[2])*(X[1]-X[0]);let a=0,b=p.length-1;"
    "while(b-a>1){const c=(a+b)>>1;if(p[c][0]<v)a=c;else b=c}"
    "const q=Math.abs(p[a][0]-v)<Math.abs(p[b][0]-v)?p[a]:p[b],x=at(q[0],X);"
    "const y=Math.min(Y[2],Math.max(Y[3],at(q[1],Y))),end=x>(X[2]+X[3])/2;"
    "g.innerHTML=`<path d=\"M${x} ${Y[3]}V${Y[2]}\"/><circle cx=\"${x}\" cy=\"${y}\" r=\"3\"/>"
    "<text x=\"${x+(end?-8:8)}\" y=\"${Y[3]+12}\" text-anchor=\"${end?'end':'start'}\">"
    "step ${q[0].toLocaleString('en')}: ${q[1]}</text>`})})";

static void add_tile(Buf *b, const char *what, const char *value) {
    buf_str(b, "<div><b>");
    add_escaped(b, value);
    buf_fmt(b, "</b><span>%s</span></div>", what);
}

static void add_tiles(Buf *b, Run *r) {
    buf_str(b, "<div class=\"tiles\">");
    Buf text = {0};
    add_number(&text, r->last_step);
    add_tile(b, "steps", text.data);
    buf_free(&text);
    char value[32];
    const Series *loss = curve(r, "loss", false), *speed = curve(r, "tok_s", false);
    if (loss && loss->n) {
        size_t n_last = loss->n < 20 ? loss->n : 20; /* one batch says little */
        double sum = 0;
        for (size_t i = loss->n - n_last; i < loss->n; i++) sum += loss->value[i];
        snprintf(value, sizeof value, "%.4g", sum / (double)n_last);
        add_tile(b, n_last > 1 ? "training loss, last steps" : "training loss", value);
    }
    if (r->val_loss.n) {
        double best = INFINITY;
        for (size_t i = 0; i < r->val_loss.n; i++) best = fmin(best, r->val_loss.value[i]);
        snprintf(value, sizeof value, "%.4g", best);
        add_tile(b, "best validation loss", value);
    }
    for (int i = r->n_evals - 1; i >= 0; i--) {
        const cJSON *bits = cJSON_GetObjectItemCaseSensitive(r->evals[i], "bits_per_byte");
        if (!cJSON_IsNumber(bits)) continue;
        snprintf(value, sizeof value, "%.4g", bits->valuedouble);
        add_tile(b, "bits per byte, last evaluation", value);
        break;
    }
    if (speed && speed->n) {
        double *sorted = xmalloc(speed->n * sizeof *sorted);
        memcpy(sorted, speed->value, speed->n * sizeof *sorted);
        qsort(sorted, speed->n, sizeof *sorted, ascending);
        add_tile(b, "tokens per second, median", human_count(sorted[speed->n / 2]));
        free(sorted);
    }
    buf_str(b, "</div>");
}

static void add_facts(Buf *b, const char *heading, const cJSON *event) {
    int n = 0;
    for (const cJSON *f = event ? event->child : NULL; f; f = f->next) {
        if (is_frame_key(f->string)) continue;
        if (!n++) buf_fmt(b, "<h2>%s</h2><dl>", heading);
        buf_str(b, "<div><dt>");
        add_words(b, f->string);
        buf_str(b, "</dt><dd>");
        add_value(b, f);
        buf_str(b, "</dd></div>");
    }
    if (n) buf_str(b, "</dl>");
}

static void add_curves(Buf *b, Run *r) {
    static const struct { const char *key, *title; bool from_zero, smooth; } known[] = {
        {"lr", "Learning rate", true, false}, {"grad_norm", "Gradient norm", true, true},
        {"tok_s", "Tokens per second", true, true}};
    enum { N_KNOWN = sizeof known / sizeof *known };
    Series none = {.key = "loss"};
    const Series *loss = curve(r, "loss", false);
    if (!loss) loss = &none;
    if (loss->n || r->val_loss.n || loss->n_null) {
        buf_str(b, "<h2>Loss</h2><div class=\"card loss\"><p class=\"legend\">");
        const char *raw_class = loss->n >= SMOOTH_FROM ? "r" : "l";
        if (loss->n) buf_fmt(b, "<span><i class=\"%s\"></i>training, each step logged</span>", raw_class);
        if (loss->n >= SMOOTH_FROM) buf_str(b, "<span><i class=\"l\"></i>training, moving average</span>");
        if (r->val_loss.n) buf_str(b, "<span><i class=\"p\"></i>validation</span>");
        buf_str(b, "</p>");
        add_chart(b, loss, &r->val_loss, true, false, true);
        buf_str(b, "</div>");
    }
    buf_str(b, "<div class=\"grid3\">");
    for (int k = 0; k < N_KNOWN + r->n_curves; k++) { /* the known ones first, then whatever else was logged */
        const Series *s = k < N_KNOWN ? curve(r, known[k].key, false) : &r->curves[k - N_KNOWN];
        bool shown = !s || s == loss || !(s->n || s->n_null);
        for (int i = 0; k >= N_KNOWN && i < N_KNOWN; i++) shown |= !strcmp(s->key, known[i].key);
        if (shown) continue;
        buf_str(b, "<div class=\"card\"><h3>");
        if (k < N_KNOWN) buf_str(b, known[k].title);
        else add_words(b, s->key);
        buf_str(b, "</h3>");
        add_chart(b, s, NULL, false, k < N_KNOWN && known[k].from_zero, k >= N_KNOWN || known[k].smooth);
        buf_str(b, "</div>");
    }
    buf_str(b, "</div>");
}

/* Which of n things to show when at most n_shown fit: spread evenly, the first and the last always among them. */
static int spread(int i, int n, int n_shown) {
    return n_shown < 2 ? n - 1 : (int)((long long)i * (n - 1) / (n_shown - 1));
}

static void add_spread_note(Buf *b, int n_shown, int n) {
    if (n_shown < n) buf_fmt(b, "<p class=\"note\">%d of %d, spread over the run.</p>", n_shown, n);
}

static void add_evals(Buf *b, const Run *r) {
    enum { COLUMNS_MAX = 12, ROWS_MAX = 60 };
    const char *columns[COLUMNS_MAX];
    int n_columns = 0, n_rows = r->n_evals < ROWS_MAX ? r->n_evals : ROWS_MAX;
    for (int i = 0; i < r->n_evals; i++)
        for (const cJSON *f = r->evals[i]->child; f; f = f->next) {
            bool known = is_frame_key(f->string) || cJSON_IsObject(f) || cJSON_IsArray(f);
            for (int c = 0; c < n_columns; c++) known |= !strcmp(columns[c], f->string);
            if (!known && n_columns < COLUMNS_MAX) columns[n_columns++] = f->string;
        }
    if (!n_columns) return;
    double best = INFINITY;
    for (size_t i = 0; i < r->val_loss.n; i++) best = fmin(best, r->val_loss.value[i]);
    bool best_seen = false; /* of equals, the first is marked */
    buf_str(b, "<h2>Evaluations</h2>");
    add_spread_note(b, n_rows, r->n_evals);
    buf_str(b, "<div class=\"wide\"><table class=\"numbers\"><tr><th>step</th>");
    for (int c = 0; c < n_columns; c++) {
        buf_str(b, "<th>");
        if (!strcmp(columns[c], "val_loss")) buf_str(b, "validation loss");
        else add_words(b, columns[c]);
        buf_str(b, "</th>");
    }
    buf_str(b, "</tr>");
    for (int i = 0; i < n_rows; i++) {
        const cJSON *e = r->evals[spread(i, r->n_evals, n_rows)];
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(e, "val_loss");
        bool is_best = !best_seen && cJSON_IsNumber(v) && v->valuedouble == best;
        best_seen |= is_best;
        buf_str(b, is_best ? "<tr class=\"best\"><td>" : "<tr><td>");
        add_value(b, cJSON_GetObjectItemCaseSensitive(e, "step"));
        buf_str(b, "</td>");
        for (int c = 0; c < n_columns; c++) {
            buf_str(b, "<td>");
            add_value(b, cJSON_GetObjectItemCaseSensitive(e, columns[c]));
            buf_str(b, "</td>");
        }
        buf_str(b, "</tr>");
    }
    buf_str(b, "</table></div>");
}

static const char *string_field(const cJSON *event, const char *key) {
    const cJSON *f = cJSON_GetObjectItemCaseSensitive(event, key);
    return cJSON_IsString(f) && f->valuestring[0] ? f->valuestring : NULL;
}

static void add_samples(Buf *b, const Run *r) {
    enum { SAMPLES_MAX = 16 };
    int n_shown = r->n_samples < SAMPLES_MAX ? r->n_samples : SAMPLES_MAX;
    if (!n_shown) return;
    buf_str(b, "<h2>Samples</h2>");
    add_spread_note(b, n_shown, r->n_samples);
    for (int i = 0; i < n_shown; i++) {
        const cJSON *e = r->samples[spread(i, r->n_samples, n_shown)];
        const char *prompt = string_field(e, "prompt"), *text = string_field(e, "text");
        if (!prompt) prompt = "";
        if (!text) text = "";
        if (!strncmp(text, prompt, strlen(prompt))) text += strlen(prompt); /* a text that repeats its prompt */
        buf_str(b, "<figure><figcaption>step ");
        add_value(b, cJSON_GetObjectItemCaseSensitive(e, "step"));
        buf_str(b, "</figcaption><blockquote><b>");
        add_escaped(b, prompt);
        buf_str(b, "</b>");
        add_escaped(b, text);
        buf_str(b, "</blockquote></figure>");
    }
}

/* Where the time went: a bar by operation, as long as its share of the time, filled as far as its limit was reached. */
static void add_profile(Buf *b, const cJSON *profile) {
    const cJSON *ops = cJSON_GetObjectItemCaseSensitive(profile, "ops"), *op;
    if (!cJSON_IsArray(ops) || !ops->child) return;
    double longest = 0;
    cJSON_ArrayForEach(op, ops) {
        const cJSON *share = cJSON_GetObjectItemCaseSensitive(op, "time_share");
        if (cJSON_IsNumber(share) && share->valuedouble > longest) longest = share->valuedouble;
    }
    if (!(longest > 0)) return;
    buf_str(b, "<h2>Where the time went</h2><p class=\"note\">Each bar is an operation's share of the time; the dark "
               "part is how "
               "much of the limit that binds it (arithmetic or memory) was reached.</p><div class=\"wide\"><table>");
    cJSON_ArrayForEach(op, ops) {
        const cJSON *share = cJSON_GetObjectItemCaseSensitive(op, "time_share");
        const cJSON *reached = cJSON_GetObjectItemCaseSensitive(op, "limit_share");
        const char *name = string_field(op, "op"), *limit = string_field(op, "limit");
        if (!cJSON_IsNumber(share) || !cJSON_IsNumber(reached) || !name) continue;
        double part = reached->valuedouble < 1 ? reached->valuedouble : 1;
        buf_str(b, "<tr><td>");
        add_escaped(b, name);
        buf_fmt(b, "</td><td>%.1f%%</td><td><span class=\"bar\" style=\"width:%.1fpx\"><span "
                   "style=\"width:%.1f%%\"></span></span>"
                   "</td><td>%.0f%% of ", 100 * share->valuedouble, 360 * share->valuedouble / longest, 100 * part,
                100 * reached->valuedouble);
        add_escaped(b, limit ? limit : "its limit");
        buf_str(b, "</td></tr>");
    }
    buf_str(b, "</table></div>");
}

/* What quantising cost: each layer's mean error, its worst matrix as a dot; and the worst of all, a bar each. */
static double number_field(const cJSON *event, const char *key) {
    const cJSON *f = cJSON_GetObjectItemCaseSensitive(event, key);
    return cJSON_IsNumber(f) ? f->valuedouble : NAN;
}
static int worst_first(const void *a, const void *b) {
    double x = number_field(*(cJSON *const *)a, "error"), y = number_field(*(cJSON *const *)b, "error");
    return (x < y) - (x > y);
}
static void add_modules(Buf *b, Run *r) {
    enum { ROWS_MAX = 40, LAYERS_MAX = 1 << 16 };
    if (!r->n_modules) return;
    Series mean = {.key = "error of the output, in percent"}, worst = {0};
    for (int l = 0, found = 1; found && l < LAYERS_MAX; l++) {
        double sum = 0, most = 0;
        found = 0;
        for (int i = 0; i < r->n_modules; i++) {
            double error = number_field(r->modules[i], "error");
            if (number_field(r->modules[i], "layer") != l || !isfinite(error)) continue;
            found++, sum += error, most = fmax(most, error);
        }
        if (!found) break;
        cJSON *m = cJSON_CreateNumber(100 * sum / found), *w = cJSON_CreateNumber(100 * most);
        series_add(&mean, l, m), series_add(&worst, l, w);
        cJSON_Delete(m), cJSON_Delete(w);
    }
    buf_str(b, "<h2>Error by layer</h2><p class=\"note\">How far a matrix's output on the calibration text (without "
               "one: the matrix "
               "itself) is from what it was, in percent of its size. The line is a layer's mean, dots are its worst "
               "matrix.</p>");
    if (mean.n) {
        buf_str(b, "<div class=\"grid3\"><div class=\"card\"><h3>");
        add_words(b, mean.key);
        buf_str(b, "</h3>");
        add_chart(b, &mean, &worst, false, true, false);
        buf_str(b, "</div></div>");
    }
    qsort(r->modules, (size_t)r->n_modules, sizeof *r->modules, worst_first);
    double longest = number_field(r->modules[0], "error");
    int n = r->n_modules < ROWS_MAX ? r->n_modules : ROWS_MAX;
    buf_fmt(b, "<div class=\"wide\"><table><tr><th>the worst %d of "
               "%d</th><th>bits</th><th>error</th><th></th><th>inputs in 8 bits</th>"
               "<th>in 4</th></tr>", n, r->n_modules);
    for (int i = 0; i < n; i++) {
        const cJSON *e = r->modules[i];
        double error = number_field(e, "error"), in8 = number_field(e, "input8"), in4 = number_field(e, "input4");
        const char *name = string_field(e, "name");
        if (!name || !isfinite(error)) continue;
        buf_str(b, "<tr><td>");
        add_escaped(b, name);
        buf_fmt(b, "</td><td>%.0f</td><td>%.3f%%</td><td><span class=\"bar\" style=\"width:%.1fpx\"><span "
                   "style=\"width:100%%\"></span></span></td>",
                number_field(e, "bits"), 100 * error, longest > 0 ? 240 * error / longest : 0);
        if (isfinite(in8) && isfinite(in4)) buf_fmt(b, "<td>%.2f%%</td><td>%.1f%%</td></tr>", 100 * in8, 100 * in4);
        else buf_str(b, "<td></td><td></td></tr>");
    }
    buf_str(b, "</table></div>");
    free(mean.step), free(mean.value), free(worst.step), free(worst.value);
}

void report_write(const char *dir) {
    char *log_path = path_join(dir, "log.jsonl"), *page_path = path_join(dir, "report.html");
    Run r = run_read(log_path);
    char *real = realpath(dir, NULL), *slash = real ? strrchr(real, '/') : NULL;
    const char *name = string_field(r.start, "title");
    if (!name) name = slash && slash[1] ? slash + 1 : dir;

    Buf b = {0};
    buf_str(&b, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>");
    add_escaped(&b, name);
    buf_fmt(&b, " \xC2\xB7 tea</title><style>%s</style></head>\n<body><main><h1>", style);
    add_escaped(&b, name);
    buf_str(&b, "</h1><p class=\"lead\">");
    static const char *const headline[] = {"stage", "arch", "device", "precision"};
    int n_words = 0;
    for (size_t i = 0; i < sizeof headline / sizeof *headline; i++) {
        const char *word = string_field(r.start, headline[i]);
        if (!word) continue;
        if (n_words++) buf_str(&b, " \xC2\xB7 ");
        add_escaped(&b, word);
    }
    if (r.n_starts > 1) {
        buf_fmt(&b, "%sresumed at step ", n_words ? " \xC2\xB7 " : "");
        add_value(&b, cJSON_GetObjectItemCaseSensitive(r.start, "step"));
    }
    buf_str(&b, "</p>");
    if (r.n_steps || r.n_evals) {
        add_tiles(&b, &r);
        add_curves(&b, &r);
    } else if (!r.n_modules) buf_str(&b, "<p>This run has logged no steps yet.</p>");
    add_modules(&b, &r);
    add_evals(&b, &r);
    add_samples(&b, &r);
    add_profile(&b, r.profile);
    add_facts(&b, "At the end", r.end);
    add_facts(&b, "Settings", r.start);
    buf_fmt(&b, "<footer>Drawn by tea from log.jsonl.</footer></main><script>%s</script></body></html>\n", script);

    file_write(page_path, b.data, b.len);
    buf_free(&b);
    run_free(&r);
    free(real);
    free(log_path);
    free(page_path);
}
