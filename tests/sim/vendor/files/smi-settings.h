/* What nvidia-smi sets: power limit, ECC mode, MIG mode and instances. Included by nvidia-smi.c.
 *
 * -pl WATTS, -e 0|1, -mig 0|1, mig -lgi|-lgip|-cgi PROFILE[,...] -C|-dci|-dgi, each with -i INDEX.
 * Texts and tables: the MIG user guide's examples and nvidia-smi's manual page (branch 580).
 * Simplified: a GPU has seven slices, one instance per size letter takes as many (3g takes four on
 * boards with 80 GB, as the real one's memory slices), and placements are not looked at. */

static const struct profile { const char *name; int id, slices, most; } profiles[] = {
    {"1g.10gb", 19, 1, 7}, {"2g.20gb", 14, 2, 3}, {"3g.40gb", 9, 4, 2}, {"4g.40gb", 5, 4, 1},
    {"7g.80gb", 0, 8, 1},
};
#define PROFILES (sizeof profiles / sizeof *profiles)

static int each(u32 count, int (*act)(u32, device_t, const void *), const void *with) {
  for (u32 i = 0; i < count; i++) {
    if (only >= 0 && (u32)only != i) continue;
    int code = act(i, device(i), with);
    if (code) return code;
  }
  return 0;
}
static int denied(const char *what, u32 index, int code) {
  if (code == 3) printf("%s is not supported for GPU %u.\n", what, index);
  else printf("Unable to set %s for GPU %u: %s\n", what, index,
              code == 4 ? "Insufficient Permissions" : "Invalid Argument");
  puts("Terminating early due to previous errors.");
  return code;
}

static int set_power(u32 index, device_t d, const void *with) {
  u32 wanted = *(const u32 *)with, low, high, was;
  int code = CALL("nvmlDeviceGetPowerManagementLimitConstraints", d, &low, &high);
  if (!code && (wanted < low || wanted > high)) {
    printf("Provided power limit %u.00 W is not a valid power limit which should be between %u.00 W and "
           "%u.00 W for GPU %u\nTerminating early due to previous errors.\n",
           wanted / 1000, low / 1000, high / 1000, index);
    return 2;
  }
  CALL("nvmlDeviceGetPowerManagementLimit", d, &was);
  if (!code) code = CALL("nvmlDeviceSetPowerManagementLimit", d, wanted);
  if (code) return denied("power management limit", index, code);
  printf("Power limit for GPU %u was set to %u.00 W from %u.00 W.\n", index, wanted / 1000, was / 1000);
  return 0;
}
static int set_ecc(u32 index, device_t d, const void *with) {
  int code = CALL("nvmlDeviceSetEccMode", d, *(const u32 *)with);
  if (code) return denied("ECC mode", index, code);
  printf("%s ECC support for GPU %u.\n", *(const u32 *)with ? "Enabled" : "Disabled", index);
  return 0;
}
static int set_mig(u32 index, device_t d, const void *with) {
  u32 activation = 0;
  int code = CALL("nvmlDeviceSetMigMode", d, *(const u32 *)with, &activation);
  if (code) return denied("MIG mode", index, code);
  if (activation == 19)
    printf("Warning: MIG mode is in pending %s state for GPU %u:In use by another client\n",
           *(const u32 *)with ? "enable" : "disable", index);
  printf("%s MIG Mode for GPU %u\n", *(const u32 *)with ? "Enabled" : "Disabled", index);
  return 0;
}

/* ---- instances: files of the tree, one word each: PROFILE:ID, PROFILE alone without compute ---- */

static int instance_file(u32 index, char *out, size_t size) {
  u32 number;
  if (CALL("nvmlDeviceGetMinorNumber", device(index), &number)) return 0;
  snprintf(out, size, "/run/sim/nvml/%u/mig_instances", number);
  return 1;
}
static void instances(u32 index, char *out, size_t size) {
  char path[96];
  out[0] = 0;
  if (instance_file(index, path, sizeof path)) sim_read(path, out, size);
}
static int keep(u32 index, const char *line) {
  char path[96];
  return instance_file(index, path, sizeof path) && sim_write(path, line) ? 0 : 4;
}
static int mig_is_on(device_t d) {
  u32 current = 0, pending = 0;
  return !CALL("nvmlDeviceGetMigMode", d, &current, &pending) && current;
}

static int list_instances(u32 count) {
  char line[256];
  int found = 0, enabled = 0;
  for (u32 i = 0; i < count; i++) {
    if ((only >= 0 && (u32)only != i) || !mig_is_on(device(i))) continue;
    enabled = 1;
    instances(i, line, sizeof line);
    int id = 0;
    for (char *rest = line, *word; (word = strtok_r(rest, " ", &rest)); id++) {
      if (!found++)
        puts("+---------------------------------------------------------+\n"
             "| GPU instances:                                          |\n"
             "| GPU   Name               Profile  Instance   Placement  |\n"
             "|                            ID       ID       Start:Size |\n"
             "|=========================================================|");
      word[strcspn(word, ":")] = 0;
      printf("|   %u  MIG %-12s   %4d     %4d          0:1     |\n", i, word, 9, id + 1);
    }
  }
  if (found) puts("+---------------------------------------------------------+");
  else puts(enabled ? "No GPU instances found: Not Found" : "No MIG-enabled devices found.");
  return found ? 0 : 6;
}
static int list_profiles(u32 count) {
  int found = 0;
  for (u32 i = 0; i < count; i++) {
    if ((only >= 0 && (u32)only != i) || !mig_is_on(device(i))) continue;
    found = 1;
    for (size_t p = 0; p < PROFILES; p++)
      printf("|   %u  MIG %-12s   %2d     %d/%d        9.75       No     16     1     0   |\n", i,
             profiles[p].name, profiles[p].id, profiles[p].most, profiles[p].most);
  }
  if (!found) puts("No MIG-supported devices found.");
  return found ? 0 : 6;
}
static void list_devices(u32 index) {
  char line[256];
  if (!mig_is_on(device(index))) return;
  instances(index, line, sizeof line);
  int number = 0;
  for (char *rest = line, *word; (word = strtok_r(rest, " ", &rest));) {
    char *compute = strchr(word, ':');
    if (!compute) continue;
    *compute = 0;
    printf("  MIG %-11s Device  %d: (UUID: MIG-%08x-0000-5000-8000-0000000000%02x)\n", word, number,
           index + 1, number);
    number++;
  }
}

struct wish { const char *names; int compute; };
static int create(u32 index, device_t d, const void *with) {
  const struct wish *wish = with;
  char line[256], names[256];
  if (!mig_is_on(d)) {
    puts("No MIG-enabled devices found.");
    return 6;
  }
  instances(index, line, sizeof line);
  snprintf(names, sizeof names, "%s", wish->names);
  for (char *rest = names, *name; (name = strtok_r(rest, ",", &rest));) {
    int used = 0, needed = 0;
    for (size_t p = 0; p < PROFILES; p++) {
      if (!strcmp(profiles[p].name, name)) needed = profiles[p].slices;
      for (char *at = line; (at = strstr(at, profiles[p].name)); at++) used += profiles[p].slices;
    }
    if (!needed) {
      printf("Invalid GPU instance profile name '%s' for GPU %u.\n", name, index);
      return 2;
    }
    if (used + needed > 8 || (needed == 1 && used + needed > 7)) {
      printf("Unable to create a GPU instance on GPU %u using profile %s: Insufficient Resources\n",
             index, name);
      return 19;
    }
    size_t end = strlen(line);
    snprintf(line + end, sizeof line - end, "%s%s%s", end ? " " : "", name, wish->compute ? ":0" : "");
    if (keep(index, line)) return denied("GPU instance", index, 4);
    printf("Successfully created GPU instance on GPU %u using profile MIG %s\n", index, name);
  }
  return 0;
}
static int destroy(u32 index, device_t d, const void *with) {
  char line[256], bare[256] = "";
  int compute = *(const int *)with, found = 0;
  (void)d;
  instances(index, line, sizeof line);
  for (char *rest = line, *word; (word = strtok_r(rest, " ", &rest));) {
    if (!compute && strchr(word, ':')) {
      printf("Unable to destroy a GPU instance on GPU %u: In use by another client\n", index);
      return 19;
    }
    found += compute ? strchr(word, ':') != 0 : 1;
    word[strcspn(word, ":")] = 0;
    size_t end = strlen(bare);
    if (compute) snprintf(bare + end, sizeof bare - end, "%s%s", end ? " " : "", word);
  }
  if (!found) {
    puts("No instances found: Not Found");
    return 6;
  }
  if (keep(index, bare)) return denied("instances", index, 4);
  printf("Successfully destroyed %s instances on GPU %u\n", compute ? "compute" : "GPU", index);
  return 0;
}

static int mig_command(int argc, char **argv) { /* argv after the word mig */
  const char *make = 0;
  int action = 0, compute = 0;
  for (int i = 0; i < argc; i++) {
    if (!strcmp(argv[i], "-i") && i + 1 < argc) only = atoi(argv[++i]);
    else if (!strcmp(argv[i], "-C")) compute = 1;
    else if (!action && !strcmp(argv[i], "-cgi") && i + 1 < argc) action = 'c', make = argv[++i];
    else if (!action && !strcmp(argv[i], "-lgi")) action = 'l';
    else if (!action && !strcmp(argv[i], "-lgip")) action = 'p';
    else if (!action && !strcmp(argv[i], "-dci")) action = 'd';
    else if (!action && !strcmp(argv[i], "-dgi")) action = 'D';
    else action = '?', i = argc;
  }
  if (!action || action == '?') {
    puts("Invalid combination of input arguments. Please run 'nvidia-smi mig -h' for help.\n");
    return 2;
  }
  start();
  u32 count = 0;
  CALL("nvmlDeviceGetCount_v2", &count);
  int computes = action == 'd';
  struct wish wish = {make, compute};
  if (action == 'l') return list_instances(count);
  if (action == 'p') return list_profiles(count);
  return action == 'c' ? each(count, create, &wish) : each(count, destroy, &computes);
}
