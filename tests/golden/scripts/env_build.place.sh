if [ -e "$final" ]; then mv -T "$final" "$final.old-$$"; fi
mv -T "$build" "$final"
find "$prefix/tools" -mindepth 1 -maxdepth 1 -name 'uv-*' ! -name "uv-$uv_version" \
    -exec rm -rf {} +
rm -rf "$prefix/cache" "$envs"/.build-*
for old in "$final".old-*; do
    [ -d "$old" ] || continue
    grep -lsF "$old/" /proc/[0-9]*/maps | grep -q . || rm -rf "$old"
done
