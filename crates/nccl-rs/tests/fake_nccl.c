/* A library with NCCL's functions and no card. The first letter of the unique id chooses how a communicator behaves:
 *   r  joins after some looks, and its operations are taken in after some looks
 *   n  never joins
 *   b  breaks while joining
 *   x  is refused at once
 *   y  is refused at once, but half made
 *   d  breaks while an all-reduce is taken in
 *   w  takes an all-reduce in at once, and breaks while it runs
 * Lives only as long as one test: its counters are the process's. */
#include <stdio.h>
#include <stdlib.h>

enum { SYSTEM = 2, INTERNAL = 3, ARGUMENT = 4, REMOTE = 6, IN_PROGRESS = 7, LOOKS = 20 };

typedef struct { char internal[128]; } Id;
typedef struct { size_t size; unsigned magic, version; int blocking; } Config;
typedef struct Comm { char kind; int looks, error, count, rank; struct Comm **child; int left_out; } Comm;

static int made, aborted, finalized, destroyed;

static Comm *make(char kind, int count, int rank) {
  Comm *comm = calloc(1, sizeof *comm);
  *comm = (Comm){.kind = kind, .looks = LOOKS, .error = kind == 'b' ? REMOTE : 0, .count = count, .rank = rank};
  made++;
  return comm;
}

int ncclGetVersion(int *version) { *version = VERSION; return 0; }
int ncclGetUniqueId(Id *id) { (void)id; return SYSTEM; }
const char *ncclGetErrorString(int code) { static char text[32]; snprintf(text, sizeof text, "code %d", code); return text; }

const char *ncclGetLastError(Comm *comm) {
  static char text[128];
  (void)comm;
  snprintf(text, sizeof text, "made %d aborted %d finalized %d destroyed %d", made, aborted, finalized, destroyed);
  return text;
}

int ncclCommInitRankConfig(Comm **comm, int count, Id id, int rank, Config *config) {
  if (config->magic != 0xcafebeef || config->blocking != 0) return ARGUMENT;
  if (id.internal[0] == 'x') return INTERNAL;
  *comm = make(id.internal[0], count, rank);
  return id.internal[0] == 'y' ? INTERNAL : IN_PROGRESS;
}

int ncclCommGetAsyncError(Comm *comm, int *error) {
  if (comm->looks > 0 && comm->kind != 'n') comm->looks--;
  *error = comm->looks > 0 ? IN_PROGRESS : comm->error;
  if (comm->looks == 0 && comm->child) {
    int rank = comm->left_out < comm->rank ? comm->rank - 1 : comm->rank;
    *comm->child = make('r', comm->count - 1, rank);
    comm->child = NULL;
  }
  return 0;
}

static int collective(Comm *comm) {
  comm->looks = LOOKS;
  comm->error = comm->kind == 'd' || comm->kind == 'w' ? REMOTE : 0;
  return comm->kind == 'w' ? 0 : IN_PROGRESS;
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, Comm *comm, void *stream) {
  (void)from, (void)to, (void)count, (void)stream;
  return type == 7 && op == 0 ? collective(comm) : ARGUMENT;
}
int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, Comm *comm, void *stream) {
  (void)count, (void)stream;
  return type == 7 && from == to && root < comm->count ? collective(comm) : ARGUMENT;
}
int ncclAllGather(const void *from, void *to, size_t count, int type, Comm *comm, void *stream) {
  (void)from, (void)to, (void)count, (void)stream;
  return type == 7 ? collective(comm) : ARGUMENT;
}

int ncclCommCount(const Comm *comm, int *count) { *count = comm->count; return 0; }
int ncclCommUserRank(const Comm *comm, int *rank) { *rank = comm->rank; return 0; }
int ncclCommFinalize(Comm *comm) { finalized++; comm->looks = LOOKS; return IN_PROGRESS; }
int ncclCommDestroy(Comm *comm) { destroyed++; free(comm); return 0; }
int ncclCommAbort(Comm *comm) { aborted++; free(comm); return 0; }

#if VERSION >= 22700
/* One rank is left out, after an error. */
int ncclCommShrink(Comm *comm, int *left_out, int count, Comm **child, Config *config, int flags) {
  if (count != 1 || flags != 1 || config->magic != 0xcafebeef) return ARGUMENT;
  comm->looks = LOOKS;
  comm->error = 0;
  comm->child = child;
  comm->left_out = left_out[0];
  return IN_PROGRESS;
}
#endif
