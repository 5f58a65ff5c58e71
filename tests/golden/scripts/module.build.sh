flavour_of() { case "$1" in *GPL*) echo open ;; *) echo closed ;; esac; }
built() {
    [ "$(modinfo -k "$1" -F version nvidia 2>/dev/null || :)" = "$version" ] &&
        [ "$(flavour_of "$(modinfo -k "$1" -F license nvidia 2>/dev/null || :)")" = "$flavour" ]
}
for kernel in $kernels; do
    built "$kernel" && continue
    echo "building the modules for kernel $kernel"
    for source in /usr/src/nvidia*-"$version"; do
        [ -f "$source/dkms.conf" ] || continue
        name=${source##*/}
        name=${name%-"$version"}
        dkms remove -m "$name" -v "$version" -k "$kernel" >/dev/null 2>&1 || :
        dkms add -m "$name" -v "$version" >/dev/null 2>&1 || :
        dkms install --force -m "$name" -v "$version" -k "$kernel"
    done
    depmod "$kernel"
    built "$kernel" && continue
    found=$(modinfo -k "$kernel" -F version nvidia 2>/dev/null || :)
    echo "kernel $kernel has module '$found', wanted $version ($flavour); are there sources in" \
        "/usr/src/nvidia*-$version and headers in /lib/modules/$kernel/build?" >&2
    exit 1
done
