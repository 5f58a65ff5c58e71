place=$prefix/python/$folder
aside=$prefix/python/$folder.old-$$
list=$prefix/python/.list-$$.json
mkdir -p "$prefix/python"
chmod 755 "$prefix/python"
back() {
    rm -rf "$list" "$prefix/cache"
    if ! [ -e "$place/.gpufleet-manifest" ]; then
        rm -rf "$place"
        if [ -e "$aside" ]; then mv -T "$aside" "$place"; fi
    fi
}
trap back EXIT
trap 'exit 143' HUP INT TERM
cat >"$list"
if [ -e "$place" ]; then mv -T "$place" "$aside"; fi
set -- "$key"
if [ -s "$list" ]; then set -- "$@" --python-downloads-json-url "$list"; fi
echo "installing Python $version"
"$uv" python install --no-bin --install-dir "$place" "$@" || {
    echo "Python $key could not be had from $url${sha256:+, wanted sha256 $sha256}; next:" \
        "gpufleet lock INVENTORY --upgrade python" >&2
    exit 1
}
found=$("$place/$key/bin/python$minor" -I -c 'import platform; print(platform.python_version())')
if [ "$found" != "$version" ]; then
    echo "Python from $url says it is $found, wanted $version" >&2
    exit 1
fi
rm -rf "$place/.temp" "$place/.lock" "$place/.gitignore"
chmod -R u+rwX,go+rX,go-w "$place"
(cd "$place" && find . ! -type d ! -name '*.pyc' ! -name .gpufleet-manifest -printf '%P %s\n' | LC_ALL=C sort | sha256sum | cut -d ' ' -f 1) >"$list"
chmod 644 "$list"
sync -f "$place"
mv "$list" "$place/.gpufleet-manifest"
for old in "$place".old-*; do
    [ -d "$old" ] || continue
    grep -lsF "$old/" /proc/[0-9]*/maps | grep -q . || rm -rf "$old"
done
