lacking() {
    for name in $names; do
        rpm -q --quiet "$name" || rpm -q --quiet --whatprovides "$name" || echo "$name"
    done
}
add() {
    patiently dnf4 "$@" install $(lacking)
}
add || { [ -n "$(lacking)" ] && add --refresh; } || :
if [ -n "$(lacking)" ]; then
    echo "not installed: $(lacking | tr '\n' ' ')" >&2
    exit 1
fi
