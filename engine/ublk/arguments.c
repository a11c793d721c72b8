/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "arguments.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../keys.h"
#include "fail.h"
#include "ublk_abi.h"

#define MOST_ID ((1 << 20) - 1) /* the driver's UBLK_MINORS */

static const char usage[] =
    "Usage: " NAME
    " cache_dev=PMEM backing=DISK [KEY=VALUE]... [OPTIONS]\n"
    "       " NAME
    " --recover N cache_dev=PMEM backing=DISK [KEY=VALUE]...\n"
    "       " NAME
    " --delete N\n"
    "Serves a cached block device as /dev/ublkbN until SIGTERM, SIGINT or SIGHUP.\n\n"
    "Options:\n"
    "  --queues N     threads, each with a queue of the device; default 1\n"
    "  --depth D      requests in flight of each queue, 1 to 4096; default 128\n"
    "  --id N         the device is /dev/ublkbN; default the first that is free\n"
    "  --recoverable  the device outlives its server, and requests wait for the next one; each "
    "write\n"
    "                 is then durable when it completes\n"
    "  --recover N    serve /dev/ublkbN, whose server was killed, again\n"
    "  --delete N     remove /dev/ublkbN, whoever has made it; a server of it that runs ends\n"
    "  --help         this\n"
    "  --version      the version\n\n"
    "Keys:\n";

static int print_help(void) {
  fputs(usage, stdout);
  keys_print_help(stdout);
  return fflush(stdout) ? FAILED : 0;
}

static bool number(const char* name, const char* text, long least, long most, int64_t* value) {
  char* end;
  long found;

  errno = 0;
  found = strtol(text, &end, 10);
  if (errno || end == text || *end || found < least || found > most) {
    fail("%s: %s: a number from %ld to %ld is expected", name, text, least, most);
    return false;
  }
  *value = found;
  return true;
}

static bool set_key(char* argument, struct pcache_options* options) {
  struct pcache_option_info option;
  struct pcache_error error = {0};
  char* value = strchr(argument, '=');

  if (!value) {
    fail("%s: KEY=VALUE is expected; see " NAME " --help", argument);
    return false;
  }
  *value++ = 0;
  if (!key_find(argument, &option)) {
    fail("%s=%s: there is no such option; see " NAME " --help", argument, value);
    return false;
  }
  if (!pcache_options_set(options, option.name, value, &error)) return true;
  fail("%s", error.text);
  return false;
}

enum { QUEUES = 256, DEPTH, ID, RECOVERABLE, RECOVER, DELETE, HELP, VERSION };

static const struct option long_options[] = {{"queues", required_argument, NULL, QUEUES},
                                             {"depth", required_argument, NULL, DEPTH},
                                             {"id", required_argument, NULL, ID},
                                             {"recoverable", no_argument, NULL, RECOVERABLE},
                                             {"recover", required_argument, NULL, RECOVER},
                                             {"delete", required_argument, NULL, DELETE},
                                             {"help", no_argument, NULL, HELP},
                                             {"version", no_argument, NULL, VERSION},
                                             {0}};

/* What only a new device takes. */
static bool shape_given;

static bool take_option(int c, struct wish* wish) {
  int64_t value = 0;

  switch (c) {
    case QUEUES:
      shape_given = true;
      if (!number("--queues", optarg, 1, 4096, &value)) return false;
      wish->queues = (uint32_t)value;
      return true;
    case DEPTH:
      shape_given = true;
      if (!number("--depth", optarg, 1, UBLK_MAX_QUEUE_DEPTH, &value)) return false;
      wish->depth = (uint32_t)value;
      return true;
    case ID:
      shape_given = true;
      return number("--id", optarg, 0, MOST_ID, &wish->id);
    case RECOVERABLE:
      shape_given = wish->recoverable = true;
      return true;
    case RECOVER:
      return number("--recover", optarg, 0, MOST_ID, &wish->recover);
    case DELETE:
      return number("--delete", optarg, 0, MOST_ID, &wish->remove);
    default:
      return false;
  }
}

/* What getopt_long() has met. Of short options in one word optind says nothing. */
static int fail_unknown(const char* word) {
  if (optopt >= QUEUES) return fail("%s: it takes no value; see " NAME " --help", word);
  if (optopt) return fail("-%c: there is no such option; see " NAME " --help", optopt);
  return fail("%s: there is no such option; see " NAME " --help", word);
}

static bool is_empty(const char* text) { return !text || !*text; }

int parse(int argc, char** argv, struct wish* wish, struct pcache_options* options) {
  int c;

  opterr = 0;
  while ((c = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
    if (c == HELP) return print_help();
    if (c == VERSION)
      return printf(NAME " %s\n", pcache_version()) < 0 || fflush(stdout) ? FAILED : 0;
    if (c == ':') return fail("%s: a value is missing; see " NAME " --help", argv[optind - 1]);
    if (c == '?') return fail_unknown(argv[optind - 1]);
    if (!take_option(c, wish)) return FAILED;
  }
  if (wish->remove >= 0 && (shape_given || wish->recover >= 0 || optind < argc))
    return fail("--delete N takes nothing else");
  if (wish->remove >= 0) return -1;
  if (wish->recover >= 0 && shape_given)
    return fail(
        "--recover N takes no --queues, --depth, --id or --recoverable: the device has them");
  for (; optind < argc; optind++)
    if (!set_key(argv[optind], options)) return FAILED;
  if (is_empty(options->cache_path) || is_empty(options->backing_path))
    return fail("%s is missing: " NAME " cache_dev=PMEM backing=DISK",
                is_empty(options->cache_path) ? "cache_dev=" : "backing=");
  return -1;
}
