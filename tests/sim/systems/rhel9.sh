# Enterprise Linux 9, run in its layer: no package tool but rpm and dnf, and dnf as there.
rm -f /usr/bin/apt /usr/bin/apt-* /usr/bin/dpkg /usr/bin/dpkg-*
sed -i 's/^enabled *=.*/enabled = false/' /etc/dnf/plugins/local.conf
ldconfig # /usr/lib64 is on the loader's path
rpm --initdb
! command -v apt-get dpkg dpkg-query
dnf --version >/dev/null
