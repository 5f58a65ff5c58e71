new=$(mktemp "$list.gpufleet.XXXXXX")
trap 'rm -f "$new"' EXIT
trap 'exit 143' HUP INT TERM
[ ! -e "$list" ] || BEGIN="$begin" END="$end" awk '
    index($0, ENVIRON["BEGIN"]) == 1 { inside = 1; block = ""; next }
    inside && index($0, ENVIRON["END"]) == 1 { inside = 0; next }
    inside { block = block $0 "\n"; next }
    { print }
    END { if (inside) printf "%s", block }
' "$list" >"$new"
cat >>"$new"
chmod 644 "$new"
sync "$new"
mv -fT "$new" "$list"
