#!/bin/bash
# Drives deploy/docker-compose.yml with a real engine, from nothing to nothing.
#
# usage: BIN_DIR=DIR REFLECT=FILE tests/compose/run.sh
#   BIN_DIR   smartproxy, networkproxy, proxyctl: static binaries (`make static`)
#   REFLECT   `REFLECT ADDRESS TOKEN` knows no proto file: it asks the server what
#             it serves, prints the services and calls ConnectionService/Audit
#   LIMIT     seconds for all of it, 280 unless told
#
# Needs root on Debian; what is missing it installs (docker.io, docker-compose).
# Where it cannot run it fails and says why; it never skips.
#
# Everything happens inside one set of namespaces (network, mounts, processes),
# so no packet leaves it, no rule or bridge of the host is touched, and when its
# first process ends, whatever the reason, the kernel takes the rest along: the
# engine, its containers, their mounts and the data root, a tmpfs.
set -euo pipefail

readonly TITLE=compose-test
# Where the engine writes although told to keep to its own data root.
readonly ENGINE_DIRS=(/etc/docker /opt/containerd)
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
readonly ROOT
LIMIT=${LIMIT:-280}

fail() {
    echo "$TITLE: FAILED: $*" >&2
    exit 1
}

# ---- outside the namespaces: prepare, start, bound, clean up -----------------

outside() {
    [[ $(id -u) -eq 0 ]] || fail "needs root, to start an engine and make namespaces"
    : "${BIN_DIR:?names the directory of the static binaries}"
    : "${REFLECT:?names the reflection client}"
    [[ -x $REFLECT ]] || fail "REFLECT=$REFLECT is not an executable file"
    REFLECT=$(realpath "$REFLECT")
    install_packages
    unshare --net --mount --pid --fork --mount-proc true \
        || fail "this kernel or container forbids new network, mount and process namespaces"
    "$ROOT/deploy/stage.sh" "$BIN_DIR" "$ROOT/target/image"

    CGROUP=$TITLE-$$
    UNSHARE=''
    MADE_DIRS=()
    export REFLECT CGROUP
    trap clean_outside EXIT
    local dir
    for dir in "${ENGINE_DIRS[@]}"; do
        [[ -e $dir ]] || MADE_DIRS+=("$dir")
        mkdir -p "$dir"
    done
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # Each dies with the one before it: this script, unshare, the first process inside.
    setpriv --pdeathsig KILL \
        unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" --inside &
    UNSHARE=$!
    while kill -0 "$UNSHARE" 2>/dev/null; do
        if ((SECONDS > LIMIT)); then
            stop_inside
            fail "not done after $LIMIT s"
        fi
        sleep 0.5
    done
    wait "$UNSHARE" || exit 1
}

# The tools by the files they are needed for. The daemons that the packages would
# start by themselves are kept from starting: the test starts its own.
install_packages() {
    export PATH=$PATH:/usr/sbin:/sbin
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    [[ -x /usr/bin/docker-compose ]] || missing+=(docker-compose)
    command -v iptables >/dev/null || missing+=(iptables)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v curl >/dev/null || missing+=(curl)
    command -v readelf >/dev/null || missing+=(binutils)
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || fail "needs ${missing[*]}, and there is no apt-get to install them with"

    echo "$TITLE: installing ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        made_policy=yes
    fi
    local log status=0
    log=$(mktemp)
    {
        timeout 120 apt-get update -q \
            && DEBIAN_FRONTEND=noninteractive timeout 240 \
                apt-get install -yq --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1 </dev/null || status=$?
    [[ -z $made_policy ]] || rm -f "$policy"
    if ((status)); then
        tail -n 40 "$log" >&2
        rm -f "$log"
        fail "apt-get could not install ${missing[*]}"
    fi
    rm -f "$log"
    SECONDS=0 # LIMIT bounds the test, not the mirror's speed
}

# Asks the first process inside to end, gives it time to show its logs, then ends
# it. `unshare` itself blocks SIGTERM; its own death kills the child (--kill-child).
stop_inside() {
    local first=
    read -r first _ <"/proc/$UNSHARE/task/$UNSHARE/children" || true
    [[ -z $first ]] || kill -TERM "$first" 2>/dev/null || true
    for _ in {1..60}; do
        kill -0 "$UNSHARE" 2>/dev/null || return 0
        sleep 0.5
    done
    kill -KILL "$UNSHARE" 2>/dev/null || true
}

clean_outside() {
    local status=$?
    trap - EXIT
    if [[ -n $UNSHARE ]]; then
        ! kill -0 "$UNSHARE" 2>/dev/null || stop_inside
        wait "$UNSHARE" 2>/dev/null || true
    fi
    ((${#MADE_DIRS[@]} == 0)) || rmdir "${MADE_DIRS[@]}" || true
    # Control groups belong to no namespace; empty once their processes are gone.
    for _ in {1..20}; do
        find /sys/fs/cgroup -depth -type d -path "*/$CGROUP*" -exec rmdir {} + 2>/dev/null || true
        [[ -n $(find /sys/fs/cgroup -type d -name "$CGROUP" -print -quit) ]] || break
        sleep 0.1
    done
    exit "$status"
}

# ---- inside ------------------------------------------------------------------

# The engine's side of the wire to a client that is not this machine, and that
# client (TEST-NET-2, RFC 5737).
readonly OUTER=198.51.100.1 CLIENT=198.51.100.2

inside() {
    STEP="prepare the namespaces"
    DOCKERD=
    trap finish EXIT
    trap 'exit 143' TERM INT
    mount -t tmpfs -o mode=0755,size=3g tmpfs /run
    mkdir -p /run/test/docker-cli /run/test/bin
    local dir
    for dir in "${ENGINE_DIRS[@]}"; do
        mount -t tmpfs -o mode=0755 tmpfs "$dir"
    done
    ip link set lo up
    use_working_iptables
    make_client_namespace

    export DOCKER_HOST=unix:///run/test/docker.sock DOCKER_CONFIG=/run/test/docker-cli
    export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0 COMPOSE_HTTP_TIMEOUT=60
    export COMPOSE_PROJECT_NAME=compose-test COMPOSE_FILE=$ROOT/deploy/docker-compose.yml
    unset DOCKER_CONTEXT DOCKER_TLS_VERIFY

    step "start the engine" start_engine
    step "build the image" compose build --quiet
    step "bring up the three services" compose up -d --no-build
    step "smartproxy and networkproxy become healthy" all_healthy
    step "containers are confined" confined net smartproxy networkproxy
    step "the token belongs to 65532 and is private to it" token_is_private
    step "TLS request through the published port" status_page https://127.0.0.1:8443/
    step "clear-text request through the published port" status_page http://127.0.0.1:8080/
    step "proxyctl token prints the token" read_token
    step "reflection on smartproxy" reflection 127.0.0.1:7800
    step "reflection on networkproxy" reflection 127.0.0.1:7801
    step "a wrong token is refused" wrong_token_is_refused
    step "metrics of both" metrics_of_both
    step "a client from outside is seen by its own address" outside_client_is_seen
    step "gRPC and metrics ports are closed to the outside" admin_ports_are_closed
    step "books balance" balanced

    step "networkproxy is killed and started: a waiting TLS client is served" held_over_restart
    step "books balance after that" balanced
    step "networkproxy crashes: the engine restarts it" crash networkproxy
    step "TLS request after that" status_page https://127.0.0.1:8443/
    step "books balance after that" balanced
    step "smartproxy is killed and started" killed_and_started smartproxy
    step "TLS request after that" status_page https://127.0.0.1:8443/
    step "books balance after that" balanced
    step "smartproxy crashes: the engine restarts it" crash smartproxy
    step "TLS request after that" status_page https://127.0.0.1:8443/
    step "books balance after that" balanced
    step "net is killed: all three are made anew" net_is_replaced
    step "TLS request after that" status_page https://127.0.0.1:8443/
    step "the token is the same" token_is_unchanged
    step "books balance after that" balanced

    step "an orderly stop ends all with 0" orderly_stop
    step "take down" compose down --volumes
    step "nothing is left of it" nothing_left
    step "stop the engine" stop_engine
    STEP=
    echo "$TITLE: passed in $SECONDS s"
}

step() {
    STEP=$1
    shift
    local started=$SECONDS
    "$@"
    printf '%s: [%3d s] ok: %s (%d s)\n' "$TITLE" "$SECONDS" "$STEP" "$((SECONDS - started))"
}

# Every end of the inside comes by here. A step that did not get to its end left
# its name, whatever ended it: `set -e`, `exit`, a signal.
finish() {
    local status=$?
    trap - EXIT TERM INT
    set +e
    if [[ -n $STEP ]]; then
        ((status)) || status=1
        echo "$TITLE: FAILED: $STEP" >&2
        show_state >&2
    fi
    if [[ -n $DOCKERD ]] && kill -0 "$DOCKERD" 2>/dev/null; then
        compose down --volumes --timeout 3 >/dev/null 2>&1
        stop_engine
    fi
    exit "$status"
}

show_state() {
    if [[ -n $DOCKERD ]] && engine ps -aq >/dev/null 2>&1; then
        echo "--- containers"
        engine ps -a --format 'table {{.Names}}\t{{.Status}}\t{{.Ports}}'
        local id
        for id in $(engine ps -aq); do
            engine inspect -f '{{.Name}} exit={{.State.ExitCode}} oom={{.State.OOMKilled}} error={{.State.Error}}{{with .State.Health}} health={{.Status}}{{range .Log}}
    probe exit={{.ExitCode}}: {{.Output}}{{end}}{{end}}' "$id"
        done
        echo "--- logs of the containers"
        compose logs --no-color --tail=200
    fi
    if [[ -s /run/test/dockerd.log ]]; then
        echo "--- the engine's log (its end)"
        grep -v 'module=grpc\|loading plugin' /run/test/dockerd.log | tail -n 40
    fi
}

# ---- the engine --------------------------------------------------------------

engine() { timeout 30 docker "$@"; }
compose() { timeout 120 /usr/bin/docker-compose "$@"; }
# By its label: docker-compose takes half a second of processor for `ps`.
container() {
    engine ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --filter "label=com.docker.compose.service=$1"
}
in_container() { compose exec -T "$@"; }

# Kernels differ in which of the two rule interfaces they have.
use_working_iptables() {
    local flavour
    for flavour in iptables iptables-nft iptables-legacy; do
        "$flavour" -w 5 -t nat -S >/run/test/iptables.log 2>&1 || continue
        ln -sf "$(command -v "$flavour")" /run/test/bin/iptables
        export PATH=/run/test/bin:$PATH
        return 0
    done
    cat /run/test/iptables.log >&2
    fail "no iptables that works on this kernel (tables nat and filter, nft or legacy)"
}

make_client_namespace() {
    ip netns add client
    ip link add outer type veth peer name client netns client \
        || fail "this kernel has no veth devices"
    ip address add "$OUTER/24" dev outer
    ip link set outer up
    ip -n client address add "$CLIENT/24" dev client
    ip -n client link set client up
}

start_engine() {
    echo '{}' >/run/test/daemon.json # not the host's
    dockerd --config-file /run/test/daemon.json --host "$DOCKER_HOST" \
        --data-root /run/test/data --exec-root /run/test/exec --pidfile /run/test/dockerd.pid \
        --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$CGROUP" \
        >/run/test/dockerd.log 2>&1 &
    DOCKERD=$!
    wait_until 60 "the engine answers" engine_answers
    engine info --format "$TITLE: engine {{.ServerVersion}}, storage {{.Driver}}, cgroup v{{.CgroupVersion}}, kernel {{.KernelVersion}}"
}

engine_answers() {
    kill -0 "$DOCKERD" 2>/dev/null || fail "dockerd ended while starting"
    engine version >/dev/null 2>&1
}

stop_engine() {
    kill -TERM "$DOCKERD"
    for _ in {1..150}; do
        kill -0 "$DOCKERD" 2>/dev/null || { wait "$DOCKERD"; return; }
        sleep 0.1
    done
    kill -KILL "$DOCKERD"
    fail "dockerd did not stop within 15 s of SIGTERM"
}

# wait_until SECONDS "words" COMMAND...: fails with the words when the time is over.
wait_until() {
    local deadline=$((SECONDS + $1)) words=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "waited in vain until $words"
        sleep 0.2
    done
}

# ---- the steps ---------------------------------------------------------------

healthy() {
    local status
    status=$(engine inspect -f '{{.State.Status}} {{.State.Health.Status}}' "$(container "$1")")
    [[ $status != exited* ]] || fail "$1 has ended instead of becoming healthy"
    [[ $status == "running healthy" ]]
}

all_healthy() {
    wait_until 45 "networkproxy is healthy" healthy networkproxy
    wait_until 45 "smartproxy is healthy" healthy smartproxy
}

# What the kernel enforces, not what the engine was asked for.
confined() {
    local service pid status
    for service in "$@"; do
        pid=$(engine inspect -f '{{.State.Pid}}' "$(container "$service")")
        status=$(</proc/"$pid"/status)
        grep -Eq '^Uid:\s+65532\s+65532\s+65532\s+65532$' <<<"$status" || fail "$service does not run as 65532"
        grep -Eq '^Gid:\s+65532\s+65532\s+65532\s+65532$' <<<"$status" || fail "$service has another group than 65532"
        grep -Eq '^CapEff:\s+0+$' <<<"$status" || fail "$service has capabilities"
        grep -Eq '^CapBnd:\s+0+$' <<<"$status" || fail "$service could get capabilities"
        grep -Eq '^NoNewPrivs:\s+1$' <<<"$status" || fail "$service may gain privileges"
        awk '$5 == "/" { found = ($6 ~ /(^|,)ro(,|$)/) } END { exit !found }' /proc/"$pid"/mountinfo \
            || fail "$service has a writable root"
    done
}

token_is_private() {
    local pid owner
    pid=$(engine inspect -f '{{.State.Pid}}' "$(container smartproxy)")
    owner=$(stat -c '%u:%g %a' "/proc/$pid/root/run/smartproxy" "/proc/$pid/root/run/smartproxy/control.token" | paste -sd ' ')
    [[ $owner == "65532:65532 700 65532:65532 600" ]] || fail "owner and mode of directory and token: $owner"
}

status_page() {
    local answer
    answer=$(curl -ksS --max-time 15 -o /run/test/body -w '%{http_code}' "$1") || fail "no answer from $1"
    [[ $answer == 200 && -s /run/test/body ]] || fail "$1 answered $answer: $(head -c 200 /run/test/body)"
}

read_token() {
    TOKEN=$(in_container smartproxy proxyctl token)
    [[ -n $TOKEN && $TOKEN != *[[:space:]]* ]] || fail "not a token: '$TOKEN'"
}

token_is_unchanged() {
    local before=$TOKEN
    read_token
    [[ $TOKEN == "$before" ]] || fail "the token did not outlive the containers"
}

reflection() {
    local services
    services=$(timeout 20 "$REFLECT" "$1" "$TOKEN") || fail "reflection on $1"
    grep -q 'proxy\.admin\.v1\.ConnectionService' <<<"$services" || fail "services of $1: $services"
}

wrong_token_is_refused() {
    local address
    for address in 127.0.0.1:7800 127.0.0.1:7801; do
        ! timeout 20 "$REFLECT" "$address" "not-$TOKEN" >/run/test/refused.log 2>&1 \
            || fail "$address answered a wrong token: $(</run/test/refused.log)"
    done
}

metrics_of_both() {
    local port
    for port in 7810 7811; do
        curl -fsS --max-time 10 -o /run/test/body "http://127.0.0.1:$port/metrics" || fail "metrics on $port"
        [[ -s /run/test/body ]] || fail "metrics on $port are empty"
    done
}

# R-78: a client on another machine is known by its own address, not the bridge's.
outside_client_is_seen() {
    local answer
    answer=$(ip netns exec client curl -ksS --max-time 15 -o /run/test/body -w '%{http_code}' "https://$OUTER:8443/") \
        || fail "no answer to the client outside"
    [[ $answer == 200 ]] || fail "the client outside got $answer"
    wait_until 15 "smartproxy's log names the client $CLIENT" logged_client
}

logged_client() { compose logs --no-color smartproxy | grep -Fq "$CLIENT"; }

admin_ports_are_closed() {
    local port
    for port in 7800 7801 7810 7811 7443; do
        ! ip netns exec client bash -c "exec 3<>/dev/tcp/$OUTER/$port" 2>/dev/null \
            || fail "port $port is open to the outside"
    done
}

balanced() {
    in_container smartproxy proxyctl audit --wait >/run/test/audit.log 2>&1 \
        || fail "audit of smartproxy: $(</run/test/audit.log)"
    in_container networkproxy proxyctl --address 127.0.0.1:7801 audit --wait >/run/test/audit.log 2>&1 \
        || fail "audit of networkproxy: $(</run/test/audit.log)"
}

killed_and_started() {
    compose kill -s KILL "$1"
    compose start "$1"
    wait_until 45 "$1 is healthy again" healthy "$1"
}

# The client connects while nobody can answer it, and gets its answer.
held_over_restart() {
    compose kill -s KILL networkproxy
    status_page https://127.0.0.1:8443/ &
    local waiting=$!
    compose start networkproxy
    wait "$waiting" || fail "the client that waited was not served"
    wait_until 45 "networkproxy is healthy again" healthy networkproxy
}

# A death that the engine was not asked for: its restart policy answers it.
crash() {
    local id pid
    id=$(container "$1")
    pid=$(engine inspect -f '{{.State.Pid}}' "$id")
    kill -KILL "$pid"
    wait_until 20 "the engine has restarted $1" has_another_pid "$id" "$pid"
    wait_until 45 "$1 is healthy again" healthy "$1"
}

has_another_pid() {
    local pid
    pid=$(engine inspect -f '{{.State.Pid}}' "$1")
    [[ $pid -ne 0 && $pid -ne $2 ]]
}

net_is_replaced() {
    compose kill -s KILL net
    compose up -d --no-build --force-recreate
    all_healthy
}

orderly_stop() {
    local ids id state
    mapfile -t ids < <(compose ps -q)
    ((${#ids[@]} == 3)) || fail "three containers expected, not ${#ids[@]}"
    compose stop
    for id in "${ids[@]}"; do
        state=$(engine inspect -f '{{.Name}} {{.State.Status}} {{.State.ExitCode}}' "$id")
        [[ $state == *" exited 0" ]] || fail "$state"
    done
    ! compose logs --no-color | grep -F "panicked at" || fail "a process panicked"
}

nothing_left() {
    local left
    left=$(engine ps -aq; engine volume ls -q; engine network ls -q --filter type=custom)
    [[ -z $left ]] || fail "left behind: $left"
}

if [[ ${1:-} == --inside ]]; then
    inside
else
    outside
fi
