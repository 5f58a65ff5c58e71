if [ -e "$link" ] && ! [ -L "$link" ]; then
    echo "$link is a directory that no package owns as a link; move it away, then apply again" >&2
    exit 1
fi
if ! [ -d "$release" ]; then
    echo "$release does not exist although its packages are installed" >&2
    exit 1
fi
if update-alternatives --query cuda 2>/dev/null | grep -qxF "Alternative: $release"; then
    update-alternatives --set cuda "$release"
fi
if [ "$(readlink -f "$link" || :)" != "$release" ]; then
    new=$(mktemp -u "$link.gpufleet.XXXXXX")
    ln -s "$release" "$new"
    mv -fT "$new" "$link"
fi
