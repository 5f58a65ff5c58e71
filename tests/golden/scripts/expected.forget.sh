for file in "$stacks"/*.json; do
    case "$file" in */"$current".json | */"$before".json) ;; *) rm -f -- "$file" ;; esac
done
