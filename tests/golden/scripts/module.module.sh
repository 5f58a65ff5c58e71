flavour_of() { case "$1" in *GPL*) echo open ;; *) echo closed ;; esac; }
built() {
    [ "$(modinfo -k "$1" -F version nvidia 2>/dev/null || :)" = "$version" ] &&
        [ "$(flavour_of "$(modinfo -k "$1" -F license nvidia 2>/dev/null || :)")" = "$flavour" ]
}
