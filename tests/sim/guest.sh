#!/bin/sh
# Finishes the guest layer of a system of debs: guest.sh BELOW LAYER EXTRA_URL KEY KERNEL_PACKAGE
# What a Debian server has beside the base: the package of the kernel that it runs, and the index
# of the repository that this came from. Runs as root in mount and pid namespaces of its own.
set -eu
below=$1 layer=$2 extra=$3 key=$4 kernel=$5

mkdir -p "$layer/etc/apt/sources.list.d" "$layer/etc/apt/keyrings" "$layer.work" "$layer.root"
cp "$key" "$layer/etc/apt/keyrings/sim-extra.asc"
printf 'Types: deb\nURIs: %s\nSuites: ./\nSigned-By: /etc/apt/keyrings/sim-extra.asc\n' "$extra" \
    > "$layer/etc/apt/sources.list.d/sim-extra.sources"
mount -t overlay overlay -o "lowerdir=$below,upperdir=$layer,workdir=$layer.work" "$layer.root"

in_layer() {
    chroot "$layer.root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        DEBIAN_FRONTEND=noninteractive "$@"
}
mount -t proc proc "$layer.root/proc"
in_layer apt-get -q -o Dir::Etc::sourcelist=/etc/apt/sources.list.d/sim-extra.sources \
    -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 update
in_layer apt-get -q -y install "$kernel"
in_layer apt-get clean
in_layer depmod "$(uname -r)"
umount "$layer.root/proc"
umount "$layer.root"
rm -rf "$layer.work" "$layer.root"
