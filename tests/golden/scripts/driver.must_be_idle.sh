holders=$(find /proc/[0-9]*/fd -lname '/dev/nvidia*' 2>/dev/null |
    sed -n 's,^/proc/\([0-9]*\)/.*,\1,p' | sort -un)
for pid in $holders; do
    unit=$(sed -n 's,^[0-9]*:[^:]*:/system\.slice/\([^/]*\)\.service$,\1,p' \
        "/proc/$pid/cgroup" 2>/dev/null | tail -n 1)
    case " dcgm dcgm-exporter nv-fabricmanager nv-hostengine nvidia-dcgm nvidia-fabricmanager nvidia-imex nvidia-persistenced nvidia-powerd nvidia-topologyd nvlsm nvsm " in *" ${unit:-none} "*) continue ;; esac
    [ -d "/proc/$pid" ] || continue
    echo "pid $pid ($(tr -d '\n' <"/proc/$pid/comm" 2>/dev/null || :)) of" \
        "$(stat -c %U "/proc/$pid" 2>/dev/null || :) holds a GPU: nothing was changed" >&2
    exit 75
done
