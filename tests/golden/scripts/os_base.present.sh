lacking() {
    for name in $names; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^.i' || echo "$name"
    done
}
add() {
    patiently apt --no-remove --no-install-recommends --fix-broken install $(lacking)
}
if ! apt -s --no-remove --no-install-recommends --fix-broken install $names >/dev/null 2>&1; then
    refresh
fi
if ! add; then
    [ -n "$(lacking)" ] && refresh && add || :
fi
if [ -n "$(lacking)" ]; then
    echo "not installed: $(lacking | tr '\n' ' ')" >&2
    exit 1
fi
