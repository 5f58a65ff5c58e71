// An automatic upgrade must not move GPU packages under running jobs. Written by gpufleet,
// which keeps this file as it is.
Unattended-Upgrade::Package-Blacklist {
    ".*nvidia";
    ".*cuda";
    ".*cudnn";
    ".*nccl";
    ".*datacenter-gpu";
    ".*nvlsm";
    ".*nvsdm";
};
