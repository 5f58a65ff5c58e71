patiently dpkg --configure -a || echo "dpkg left something unconfigured; going on"
if ! apt-get check -q >/dev/null 2>&1; then
    if apt -s --no-remove --fix-broken install >"$work/plan" 2>&1 &&
        ! awk '$1 == "Inst" || $1 == "Remv" { print $2 }' "$work/plan" | grep -Eq "$gpu"; then
        patiently apt --no-remove --fix-broken install
    else
        echo "GPU packages are involved: they are brought to their locked versions next"
    fi
fi
left=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' |
    awk '$1 !~ /^.[incWt]$/ || $1 ~ /R/ { print $2 }' | grep -Ev "$gpu" || :)
if [ -n "$left" ]; then
    echo "still broken: $(echo $left)" >&2
    exit 1
fi
