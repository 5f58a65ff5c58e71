# Ubuntu 24.04: nothing to do beside its files.
grep -q '^ID=ubuntu$' /etc/os-release
