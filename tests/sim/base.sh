#!/bin/sh
# Builds the base system of every node: base.sh TARGET SUITE MIRROR PACKAGES INPUTS DEBS
# INPUTS holds debian.sources, acquire.conf and ca/ as taken from this machine. Runs as root in
# mount and pid namespaces of its own, so that whatever kills it takes its mounts along.
set -eu
target=$1 suite=$2 mirror=$3 packages=$4 inputs=$5 debs=$6

debootstrap --variant=minbase --include="$packages" --cache-dir="$debs" "$suite" "$target" "$mirror"

in_base() { chroot "$target" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }

# The machine's way to packages: its mirrors, its Acquire settings, the authorities it trusts.
rm -f "$target/etc/apt/sources.list"
cp "$inputs/debian.sources" "$target/etc/apt/sources.list.d/debian.sources"
cp "$inputs/acquire.conf" "$target/etc/apt/apt.conf.d/50sim-acquire"
mkdir -p "$target/usr/local/share/ca-certificates"
cp -R "$inputs/ca/." "$target/usr/local/share/ca-certificates/"
cp /etc/resolv.conf "$target/etc/resolv.conf"
in_base update-ca-certificates

# Nothing may start inside the directory while packages are brought up to date.
printf '#!/bin/sh\nexit 101\n' > "$target/usr/sbin/policy-rc.d"
chmod 755 "$target/usr/sbin/policy-rc.d"
mount -t proc proc "$target/proc"
in_base apt-get -q update
in_base apt-get -q -y dist-upgrade
in_base apt-get clean
# Modules live in the machine's kernel: guest/ carries stand-ins, whatever path they are called by.
for command in /sbin/modprobe /sbin/rmmod /sbin/lsmod /bin/lsmod; do
    in_base dpkg-divert --quiet --local --rename --divert "$command.kmod" --add "$command"
done
umount "$target/proc"
rm "$target/usr/sbin/policy-rc.d"

in_base useradd --create-home --shell /bin/bash ops
in_base useradd --create-home --shell /bin/bash trainer
printf 'ops ALL=(ALL:ALL) NOPASSWD: ALL\n' > "$target/etc/sudoers.d/ops"
chmod 440 "$target/etc/sudoers.d/ops"
printf 'PasswordAuthentication no\n' > "$target/etc/ssh/sshd_config.d/sim.conf"
mkdir -p "$target/var/log/journal"

# Every node brings its own.
rm -f "$target"/etc/ssh/ssh_host_* "$target/etc/hostname" "$target/etc/resolv.conf"
: > "$target/etc/machine-id"
rm -f "$target/var/lib/dbus/machine-id"
ln -s /etc/machine-id "$target/var/lib/dbus/machine-id"
