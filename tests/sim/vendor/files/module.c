/* A kernel module in name only: an ELF file whose .modinfo section modinfo and depmod understand.
 * It is never loaded into a kernel; the simulated modprobe reads it. Built by DKMS on the node with
 * -DNAME -DLICENSE -DVERSION against the kernel's installed headers. */
#ifndef UTS_RELEASE
#include <generated/utsrelease.h>
#endif

#define INFO(id, text) \
  static const char info_##id[] __attribute__((section(".modinfo"), used, aligned(1))) = text
INFO(version, "version=" VERSION);
INFO(license, "license=" LICENSE);
INFO(description, "description=gpufleet simulated module, cannot be loaded into a kernel");
INFO(name, "name=" NAME);
#ifdef ALIAS
INFO(alias, "alias=" ALIAS);
#endif
INFO(vermagic, "vermagic=" UTS_RELEASE " SMP preempt mod_unload ");

#ifdef BROKEN /* what a driver too old for its kernel looks like */
int nvidia_simulated_fault(void) { return drm_gem_object_funcs_of_another_kernel(0); }
#endif
