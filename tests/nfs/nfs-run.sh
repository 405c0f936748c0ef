#!/bin/bash
# Runs a command where two real NFS 4.2 clients, each with its own cache and lease, share the folder of one server:
# /mnt/a and /mnt/b. A Linux kernel runs as a process of this host for that (User Mode Linux; it needs no virtualization
# and boots in 3 s), on the host's own files: the command and everything that it names have the same paths there.
# What the command writes below /mnt is lost when it ends; /mnt itself is local to the guest.
#
#   nfs-run.sh DIR COMMAND [ARGUMENT...]     prints the output, which is also in DIR/out, and exits as the command does
#
# Exits with 2 if something that it needs is missing. Needs root and:
#   apt-get install -y --no-install-recommends user-mode-linux kmod iproute2 nfs-kernel-server nfs-common
# Environment:
#   NFS_OPTIONS    more mount options, such as actimeo=1 (besides vers=4.2,hard)
#   NFS_LEASE_S    seconds until the server drops the locks of a silent client (default 10; Linux's own default is 90)
#   NFS_MEMORY     memory of the guest (default 512M)
#   NFS_SECONDS    time limit for everything (default 300)
# In the command, `ip link set va down` cuts client a off from the server, and `ip link set va up` reconnects it; vb is
# the link of b.
set -euo pipefail
# The tools of administrators are not in every user's path.
export PATH=$PATH:/usr/sbin:/sbin
for t in linux.uml modprobe ip rpc.nfsd rpc.mountd mount.nfs4; do
  command -v "$t" >/dev/null || { echo "nfs-run: no $t; apt-get install -y --no-install-recommends user-mode-linux kmod iproute2 nfs-kernel-server nfs-common" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "nfs-run: has to be root" >&2; exit 2; }
dir=${1:?usage: nfs-run.sh DIR COMMAND...}; shift; [ $# -gt 0 ] || { echo "nfs-run: no command" >&2; exit 2; }
mkdir -p "$dir/modules/lib"; dir=$(cd "$dir" && pwd)
ln -sfn /usr/lib/uml/modules "$dir/modules/lib/modules"
rm -f "$dir/out" "$dir/rc"; : > "$dir/out"
printf '%q ' "$@" > "$dir/command"
cat > "$dir/init" <<INIT
#!/bin/bash
exec </dev/null >>"$dir/boot.log" 2>&1
export PATH=$(printf %q "$PATH"):/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib/nfs; mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/server /mnt/a /mnt/b /run/lock /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs
mount -t tmpfs -o mode=1777 tmpfs /mnt/server
ip link set lo up
# The kernel has mounted a /dev of its own, without these.
ln -sfn /proc/self/fd /dev/fd; for n in stdin:0 stdout:1 stderr:2; do ln -sfn /proc/self/fd/\${n#*:} /dev/\${n%:*}; done
for m in sunrpc nfsd nfsv4 veth; do modprobe -d "$dir/modules" \$m; done
mount -t nfsd nfsd /proc/fs/nfsd; mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
exportfs -i -o rw,no_root_squash,no_subtree_check,fsid=0,insecure,sync '*:/mnt/server'
echo ${NFS_LEASE_S:-10} > /proc/fs/nfsd/nfsv4leasetime; echo ${NFS_LEASE_S:-10} > /proc/fs/nfsd/nfsv4gracetime
rpc.nfsd -N 3 -V 4 4; rpc.mountd -N 2 -N 3
echo Y > /proc/fs/nfsd/v4_end_grace
n=0
for x in a b; do
  n=\$((n+1))
  ip netns add n\$x; ip link add v\$x type veth peer name w\$x; ip link set w\$x netns n\$x
  ip addr add 10.0.\$n.1/24 dev v\$x; ip link set v\$x up
  ip netns exec n\$x ip addr add 10.0.\$n.2/24 dev w\$x; ip netns exec n\$x ip link set w\$x up; ip netns exec n\$x ip link set lo up
  # A name of its own, or the server takes both for one client.
  nsenter --net=/run/netns/n\$x bash -c "mount -t sysfs sysfs /sys; echo client-\$x > /sys/fs/nfs/net/nfs_client/identifier; umount /sys
    mount -t nfs4 -o vers=4.2,hard,retry=0${NFS_OPTIONS:+,$NFS_OPTIONS} 10.0.\$n.1:/ /mnt/\$x"
done
if [ "\$(grep -c ' nfs4 ' /proc/mounts)" = 2 ]; then
  cd $(printf %q "$PWD"); bash "$dir/command" >> "$dir/out" 2>&1; echo \$? > "$dir/rc"
fi
ip link set va up; ip link set vb up; sync
echo 1 > /proc/sys/kernel/sysrq; echo o > /proc/sysrq-trigger; sleep 5
INIT
chmod +x "$dir/init"; : > "$dir/boot.log"
TMPDIR=/dev/shm timeout "${NFS_SECONDS:-300}" linux.uml root=/dev/root rootfstype=hostfs rootflags=/ rw mem="${NFS_MEMORY:-512M}" \
  init="$dir/init" con=null con0=null,fd:1 quiet </dev/null >"$dir/console.log" 2>&1 || true
cat "$dir/out"
[ -s "$dir/rc" ] || { echo "nfs-run: the command did not end, or never began; see $dir/boot.log and $dir/console.log" >&2; exit 3; }
exit "$(cat "$dir/rc")"
