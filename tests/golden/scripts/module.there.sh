for kernel in $kernels; do
    depmod "$kernel"
    built "$kernel" && continue
    found=$(modinfo -k "$kernel" -F version nvidia 2>/dev/null || :)
    echo "kernel $kernel has module '$found', wanted $version ($flavour): the distribution has" \
        "no signed modules of that version for it" >&2
    exit 1
done
