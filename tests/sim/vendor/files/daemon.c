/* The vendor's GPU daemons: each holds the device files open, so that the module is in use, and
 * refuses to start where the real one does. Forks once it is up: a start that fails is seen by systemd.
 *
 * -DVERSION="\"580.178.04\"" and one of
 *   -DPERSISTENCED     nvidia-persistenced: persistence mode on while it runs
 *   -DFABRICMANAGER    nv-fabricmanager: needs NVSwitches and its own version loaded; fabric completed
 *   -DIMEX             nvidia-imex: needs its own version loaded, and nodes to connect to
 *   -DHOSTENGINE       nv-hostengine (DCGM): needs a loaded driver of any version
 * Wording of refusals: the daemons' own (for the fabric manager's see dstackai/dstack#2348). */
#include "sim.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/types.h>

#if defined(PERSISTENCED)
#define NAME "nvidia-persistenced"
#define PID_FILE "/run/nvidia-persistenced/nvidia-persistenced.pid"
#elif defined(FABRICMANAGER)
#define NAME "nv-fabricmanager"
#define PID_FILE "/run/nvidia-fabricmanager/nv-fabricmanager.pid"
#elif defined(IMEX)
#define NAME "nvidia-imex"
#define PID_FILE "/run/nvidia-imex.pid"
#else
#define NAME "nv-hostengine"
#define PID_FILE "/run/nvhostengine.pid"
#endif

static int refuse(const char *format, const char *value) {
  fprintf(stderr, NAME ": ");
  fprintf(stderr, format, value, VERSION);
  fputc('\n', stderr);
  return 1;
}

static int hold(const char *device, int number) { /* opened and never closed: that is the point */
  char path[64], full[512];
  snprintf(path, sizeof path, number < 0 ? "/dev/%s" : "/dev/%s%d", device, number);
  return open(sim_path(full, sizeof full, path), O_RDONLY) >= 0;
}

static void mark(const char *name, const char *value) { /* one value for every GPU */
  char path[96];
  int numbers[SIM_MAX_GPUS];
  for (int i = 0, count = sim_gpus(numbers); i < count; i++) {
    snprintf(path, sizeof path, "/run/sim/nvml/%d/%s", numbers[i], name);
    sim_write(path, value);
  }
}

int main(int argc, char **argv) {
  char loaded[64] = "", full[512];
  if (argc > 1 && !strcmp(argv[1], "--version")) {
    puts(NAME " " VERSION " (simulated by gpufleet)");
    return 0;
  }
#ifdef FABRICMANAGER
  if (!sim_pci_count("0x068000"))
    return refuse("request to query NVSwitch device information from NVSwitch driver failed with "
                  "error:WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]", "");
#endif
  if (!sim_loaded(loaded, sizeof loaded))
    return refuse("failed to initialize: the NVIDIA kernel module is not loaded%s", "");
#ifdef FABRICMANAGER
  if (strcmp(loaded, VERSION)) {
    fprintf(stderr, "fabric manager NVIDIA GPU driver interface version " VERSION
            " don't match with driver version %s. Please update with matching NVIDIA driver package.\n",
            loaded);
    return 1;
  }
  for (int i = 0; i < sim_pci_count("0x068000"); i++)
    if (!hold("nvidia-nvswitch", i)) return refuse("cannot open the NVSwitch device files%s", "");
#endif
#ifdef IMEX
  FILE *nodes = fopen(sim_path(full, sizeof full, "/etc/nvidia-imex/nodes_config.cfg"), "r");
  char line[128];
  int named = 0;
  while (nodes && fgets(line, sizeof line, nodes)) named += line[0] != '#' && line[0] != '\n';
  if (nodes) fclose(nodes);
  if (!named) return refuse("no nodes in /etc/nvidia-imex/nodes_config.cfg%s", "");
#endif
#if defined(PERSISTENCED) || defined(IMEX)
  if (strcmp(loaded, VERSION))
    return refuse("Failed to initialize: the kernel module has version %s, this is %s", loaded);
#endif
  int numbers[SIM_MAX_GPUS], open_files = hold("nvidiactl", -1);
  for (int i = 0, count = sim_gpus(numbers); i < count; i++) open_files &= hold("nvidia", numbers[i]);
  if (!open_files)
    return refuse("Failed to query NVIDIA devices. Please ensure that the NVIDIA device files "
                  "(/dev/nvidia*) exist, and that user 0 has read and write permissions for those "
                  "files%s.", "");

#if defined(PERSISTENCED)
  mark("persistence", "1");
#elif defined(FABRICMANAGER)
  mark("fabric_state", "3");
#endif
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  sigprocmask(SIG_BLOCK, &stop, 0);
  pid_t child = fork();
  if (child < 0) return refuse("fork failed%s", "");
  if (child) { /* the parent leaves the pid file and ends: now systemd calls the unit active */
    FILE *file = fopen(sim_path(full, sizeof full, PID_FILE), "w");
    if (!file) {
      kill(child, SIGTERM);
      return refuse("cannot write " PID_FILE "%s", "");
    }
    fprintf(file, "%d\n", (int)child);
    fclose(file);
    return 0;
  }
  setsid();
  int nowhere = open("/dev/null", O_RDWR); /* who started us must not wait for our output to end */
  for (int i = 0; i < 3; i++) dup2(nowhere, i);
  close(nowhere);
  int signal_number;
  sigwait(&stop, &signal_number);
#if defined(PERSISTENCED)
  mark("persistence", "0");
#elif defined(FABRICMANAGER)
  mark("fabric_state", "0");
#else
  (void)mark;
#endif
  unlink(sim_path(full, sizeof full, PID_FILE));
  return 0;
}
