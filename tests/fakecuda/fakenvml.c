/* NVML beside the fake CUDA runtime: two GPUs of 80 GiB, whose processes are those with a fake context and take the memory
   that they asked for. The real package nvidia-ml-py calls it. What a driver may do to us is asked for by variables:
   FAKE_NVML_SILENT       NVML does not start
   FAKE_NVML_HIDES        the lists of processes are empty, as in a container
   FAKE_NVML_OTHER=pid:mib  another process on GPU 0; pid 0 is one that no list shows
   FAKE_NVML_NUMBERS=n    processes are listed under their number plus n, as by another namespace
   FAKE_NVML_MODE=n       compute mode of all GPUs: 0 default, 2 prohibited, 3 exclusive process
   FAKE_NVML_MIG          GPU 1 is a MIG instance of GPU 0 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#define OK 0
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define NO_SIZE 7
typedef unsigned long long u64;
typedef long gpu; /* number + 1, because a handle is not 0 */
struct info {unsigned pid; u64 used; unsigned gi, ci;};
struct memory {unsigned version; u64 total, reserved, free, used;};
static int has(const char *name) {const char *v = getenv(name); return v && *v;}
static int count(void) {const char *v = getenv("FAKE_CUDA_DEVICES"); return v ? atoi(v) : 2;}
static int is_instance(gpu g) {return g == 2 && has("FAKE_NVML_MIG");}
static void uuid(gpu g, char *text, unsigned size) {
  char d = '0' + g;
  snprintf(text, size, "%s-%c%c%c%c%c%c%c%c-%c%c%c%c-%c%c%c%c-%c%c%c%c-%c%c%c%c%c%c%c%c%c%c%c%c", is_instance(g) ? "MIG" : "GPU",
    d,d,d,d,d,d,d,d, d,d,d,d, d,d,d,d, d,d,d,d, d,d,d,d,d,d,d,d,d,d,d,d);
}
int nvmlInitWithFlags(unsigned flags) {return has("FAKE_NVML_SILENT") ? 9 : OK;}
int nvmlInit(void) {return nvmlInitWithFlags(0);} /* torch calls this one */
/* torch looks for these where it says that a device has no memory left, and for whose processes have it: nobody's here */
int nvmlInit_v2(void) {return nvmlInitWithFlags(0);}
int nvmlSystemGetCudaDriverVersion_v2(int *v) {*v = 13000; return OK;}
int nvmlDeviceGetHandleByPciBusId_v2(const char *name, gpu *g) {*g = 1; return OK;}
int nvmlDeviceGetComputeRunningProcesses(gpu g, unsigned *n, void *found) {*n = 0; return OK;}
int nvmlDeviceGetNvLinkRemoteDeviceType(gpu g, unsigned link, int *kind) {return NOT_SUPPORTED;}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(gpu g, unsigned link, void *found) {return NOT_SUPPORTED;}
int nvmlDeviceGetGpuFabricInfoV(gpu g, void *found) {return NOT_SUPPORTED;}
int nvmlShutdown(void) {return OK;}
const char *nvmlErrorString(int code) {return code == 9 ? "Driver Not Loaded" : "fake error";}
int nvmlSystemGetDriverVersion(char *text, unsigned size) {snprintf(text, size, "580.65.06"); return OK;}
int nvmlSystemGetCudaDriverVersion(int *v) {*v = 13000; return OK;}
int nvmlDeviceGetCount_v2(unsigned *n) {*n = count() - has("FAKE_NVML_MIG"); return OK;}
int nvmlDeviceGetHandleByIndex_v2(unsigned i, gpu *g) {if ((int)i >= count()) return NOT_FOUND; *g = i + 1; return OK;}
int nvmlDeviceGetHandleByUUID(const char *name, gpu *g) {
  char own[96];
  for (*g = 1; *g <= count(); ++*g) {uuid(*g, own, 96); if (!strcmp(own, name)) return OK;}
  return NOT_FOUND;
}
int nvmlDeviceGetUUID(gpu g, char *text, unsigned size) {uuid(g, text, size); return OK;}
int nvmlDeviceGetName(gpu g, char *text, unsigned size) {snprintf(text, size, "Fake GPU"); return OK;}
int nvmlDeviceIsMigDeviceHandle(gpu g, unsigned *is) {*is = is_instance(g); return OK;}
int nvmlDeviceGetMaxMigDeviceCount(gpu g, unsigned *n) {*n = g == 1 && has("FAKE_NVML_MIG"); return OK;}
int nvmlDeviceGetMigDeviceHandleByIndex(gpu g, unsigned i, gpu *instance) {*instance = 2; return OK;}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(gpu instance, gpu *g) {*g = 1; return OK;}
int nvmlDeviceGetPowerManagementLimit(gpu g, unsigned *mw) {if (is_instance(g)) return NOT_SUPPORTED; *mw = 700000; return OK;}
int nvmlDeviceGetComputeMode(gpu g, int *mode) {const char *v = getenv("FAKE_NVML_MODE"); *mode = v ? atoi(v) : 0; return OK;}
int nvmlDeviceGetClockInfo(gpu g, int kind, unsigned *mhz) {*mhz = kind == 2 ? 2619 : 345; return OK;}
int nvmlDeviceGetMaxClockInfo(gpu g, int kind, unsigned *mhz) {*mhz = kind == 2 ? 2619 : 1980; return OK;}
int nvmlDeviceGetPowerUsage(gpu g, unsigned *mw) {*mw = 71500; return OK;}
int nvmlDeviceGetTemperature(gpu g, int sensor, unsigned *t) {*t = 31; return OK;}
int nvmlDeviceGetUtilizationRates(gpu g, unsigned *both) {both[0] = 7; both[1] = 1; return OK;}
int nvmlDeviceGetCurrentClocksEventReasons(gpu g, u64 *bits) {*bits = 0x1 | 0x4; return OK;}
static int listed(gpu g, struct info *found, unsigned room) {
  const char *folder = getenv("FAKE_CUDA_CONTEXTS"), *shift = getenv("FAKE_NVML_NUMBERS");
  DIR *open = folder ? opendir(folder) : NULL;
  unsigned n = 0;
  for (struct dirent *e; open && (e = readdir(open));) {
    int device, pid; char path[512]; u64 bytes = 0;
    if (sscanf(e->d_name, "%d.%d", &device, &pid) != 2 || device + 1 != g || kill(pid, 0)) continue;
    snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    FILE *f = fopen(path, "r");
    if (f) {if (fscanf(f, "%llu", &bytes) != 1) bytes = 0; fclose(f);}
    /* a context takes as much as on a large GPU */
    if (n < room) found[n] = (struct info){pid + (shift ? atoi(shift) : 0), bytes + (500ull << 20), ~0u, ~0u};
    n++;
  }
  if (open) closedir(open);
  const char *other = getenv("FAKE_NVML_OTHER");
  unsigned pid; u64 mib;
  if (g == 1 && other && sscanf(other, "%u:%llu", &pid, &mib) == 2) {if (n < room) found[n] = (struct info){pid, mib << 20, ~0u, ~0u}; n++;}
  return n;
}
int nvmlDeviceGetComputeRunningProcesses_v3(gpu g, unsigned *n, struct info *found) {
  struct info all[256];
  unsigned there = listed(g, all, 256), shown = 0, room = *n;
  for (unsigned i = 0; i < there && !has("FAKE_NVML_HIDES"); i++) if (all[i].pid) {if (shown < room) found[shown] = all[i]; shown++;}
  *n = shown;
  return shown > room ? NO_SIZE : OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(gpu g, unsigned *n, struct info *found) {*n = 0; return OK;}
int nvmlDeviceGetMemoryInfo_v2(gpu g, struct memory *m) {
  struct info all[256];
  m->total = 80ull << 30; m->reserved = 600ull << 20; m->used = 4ull << 20;
  for (unsigned i = listed(g, all, 256); i--;) m->used += all[i].used;
  m->free = m->total - m->reserved - m->used;
  return OK;
}
