#!/bin/sh
# Finishes the guest layer of a system of rpms: guest-rpm.sh BELOW LAYER EXTRA_URL KEY PACKAGE...
# What its server has beside the layers below: the key of its own repositories, and its packages,
# the one of the kernel that it runs among them. Runs as root in namespaces of its own.
set -eu
below=$1 layer=$2 extra=$3 key=$4
shift 4

mkdir -p "$layer/etc/pki/rpm-gpg" "$layer/etc/dnf/vars" "$layer.work" "$layer.root"
chmod 755 "$layer/etc" "$layer/etc/pki" "$layer/etc/dnf" "$layer/etc/pki/rpm-gpg" "$layer/etc/dnf/vars"
cp "$key" "$layer/etc/pki/rpm-gpg/RPM-GPG-KEY-simulated"
server=${extra#*//}
echo "${server%%/*}" > "$layer/etc/dnf/vars/simhost" # the repository files say $simhost
mount -t overlay overlay -o "lowerdir=$below,upperdir=$layer,workdir=$layer.work" "$layer.root"
in_layer() {
    chroot "$layer.root" env -i LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
mount -t proc proc "$layer.root/proc"
in_layer rpm --import /etc/pki/rpm-gpg/RPM-GPG-KEY-simulated
in_layer dnf -q -y --releasever=9 install "$@"
in_layer dnf -q clean all
in_layer depmod "$(uname -r)"
umount "$layer.root/proc"
umount "$layer.root"
rm -rf "$layer.work" "$layer.root"
