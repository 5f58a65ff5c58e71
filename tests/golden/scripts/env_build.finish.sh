echo "importing torch"
found=$(env -i PATH="$PATH" HOME=/ timeout 300 "$build/bin/python" -I -c \
    'import torch; print(torch.__version__)') || {
    echo "torch was installed but cannot be imported; the current environment stays" >&2
    exit 1
}
if [ "${found%%+*}" != "$torch" ]; then
    echo "torch says it is $found, wanted $torch; the current environment stays" >&2
    exit 1
fi
mv "$build.txt" "$build/gpufleet-requirements.txt"
chmod -R u+rwX,go+rX,go-w "$build"
(cd "$build" && find . ! -type d ! -name '*.pyc' ! -name .gpufleet-manifest -printf '%P %s\n' | LC_ALL=C sort | sha256sum | cut -d ' ' -f 1) >"$build.sum"
mv "$build.sum" "$build/.gpufleet-manifest"
chmod 644 "$build/.gpufleet-manifest"
sync -f "$build"
