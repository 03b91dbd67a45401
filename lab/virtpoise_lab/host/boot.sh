#!/bin/bash
# The first process of a lab host, in namespaces of its own (mount, uts, ipc, net, pid) and in the host's cgroup:
# gives the host its name and its own view of /proc, /sys and libvirt's folders, says so, and reaps what dies.
#   boot.sh NAME OWN LXCFS PRESSURE
#   OWN       the host's private folder        LXCFS     where lxcfs is mounted
#   PRESSURE  the host's cgroup, as far as the kernel measures pressure per cgroup; "" otherwise
set -euo pipefail
name=$1 own=$2 lxcfs=$3 pressure=$4

read -r pid _ </proc/self/stat # this /proc is still the machine's, and so is the number
printf '%s' "$name" >/proc/sys/kernel/hostname
mount -t proc proc /proc
mount --bind "$own/stat" /proc/stat
for file in meminfo cpuinfo loadavg uptime swaps; do
  mount --bind "$lxcfs/proc/$file" "/proc/$file"
done
if [ -d /proc/pressure ]; then
  mkdir "$own/pressure" # empty where there is no figure per host: none is better than the whole machine's
  for resource in cpu memory io; do
    [ -e "$pressure/$resource.pressure" ] || continue
    touch "$own/pressure/$resource"
    mount --bind "$pressure/$resource.pressure" "$own/pressure/$resource"
  done
  mount --rbind "$own/pressure" /proc/pressure
fi
mount -t sysfs sysfs /sys # of this network namespace
mount --bind "$lxcfs/sys/devices/system/cpu/online" /sys/devices/system/cpu/online
[ ! -d /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
mount --bind "${own%/*}/hosts" /etc/hosts
mount --bind "$own/etc" /etc/libvirt
for file in passwd group; do
  mount --bind "$own/accounts/$file" "/etc/$file"
done
for folder in lib log cache; do
  mount --bind "$own/$folder" "/var/$folder/libvirt"
done
mount --bind "$own/run" /run

echo "$pid"
exec >&- 2>&-
while :; do
  sleep infinity &
  wait $! || true # whoever kills all that runs here ends the sleep, not the host
done
