# Built by DKMS: make KERNEL_UNAME=<release> modules
KERNEL_UNAME ?= $(shell uname -r)
KERNEL_SOURCES ?= /lib/modules/$(KERNEL_UNAME)/build
VERSION := @VERSION@
LICENSE := @LICENSE@
CFLAGS := -c -O1 -ffreestanding -Wall -Werror -I$(KERNEL_SOURCES)/include \
	-DVERSION='"$(VERSION)"' -DLICENSE='"$(LICENSE)"' $(if $(SIM_BROKEN),-DBROKEN)
MODULES := nvidia.ko nvidia-modeset.ko nvidia-uvm.ko

modules: $(MODULES)

nvidia.ko: CFLAGS += -DALIAS='"pci:v000010DEd*sv*sd*bc03sc02i00*"'
%.ko: module.c
	$(CC) $(CFLAGS) -DNAME='"$(subst -,_,$*)"' -o $@ $<
