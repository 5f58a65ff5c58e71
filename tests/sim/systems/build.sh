#!/bin/sh
# Builds the layer of one system over the base: build.sh BASE LAYER SCRIPT PACKAGE...
# LAYER holds the system's files already. Runs as root in mount and pid namespaces of its own.
set -eu
base=$1 layer=$2 script=$3
shift 3

mkdir -p "$layer.work" "$layer.root"
chmod -R u=rwX,go=rX "$layer"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$layer,workdir=$layer.work" "$layer.root"
in_layer() {
    chroot "$layer.root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}
mount -t proc proc "$layer.root/proc"
if [ $# -gt 0 ]; then
    cp /etc/resolv.conf "$layer.root/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' > "$layer.root/usr/sbin/policy-rc.d"
    chmod 755 "$layer.root/usr/sbin/policy-rc.d"
    in_layer apt-get -q update
    in_layer apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold install "$@"
    in_layer apt-get clean
    rm -f "$layer.root/etc/resolv.conf" "$layer.root/usr/sbin/policy-rc.d"
fi
in_layer sh -eu -s < "$script"
umount "$layer.root/proc"
umount "$layer.root"
rm -rf "$layer.work" "$layer.root"
