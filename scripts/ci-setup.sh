#!/usr/bin/env bash
# Installs what the tests want beyond npm, on Debian or Ubuntu: software Vulkan, what compiles kernels for a GPU that is not there (spirv-as, a C
# compiler, Vulkan's headers), Chromium, Prometheus' tools, and with --full
# PostgreSQL with pgvector. Does nothing for what is already there. Needs root (or sudo) only when something is missing.
set -euo pipefail

full=false
[ "${1:-}" = "--full" ] && full=true
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
updated=false
update() {
  $updated || $sudo apt-get update -qq
  updated=true
}
install() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

# Dawn refuses Debian 12's own Mesa (22.3: no dynamic indexing of uniform arrays); 25.0 from its backports works.
mesa_major() { dpkg-query -W -f='${Version}' mesa-vulkan-drivers 2>/dev/null | cut -d. -f1; }
have=$(mesa_major || true)
if [ "${have:-0}" -lt 23 ]; then
  . /etc/os-release
  if [ "${VERSION_CODENAME:-}" = bookworm ] && ! grep -rqs 'bookworm-backports' /etc/apt/sources.list /etc/apt/sources.list.d; then
    # Backports stand beside the suite that the machine installs from, under the same address.
    uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "bookworm" && !uri { uri = $2 } END { print uri }')
    [ -n "$uri" ] || { echo "ci-setup: no package source for bookworm found; add one, then run this again" >&2; exit 1; }
    echo "deb $uri bookworm-backports main" | $sudo tee /etc/apt/sources.list.d/bookworm-backports.list >/dev/null
    updated=false
  fi
  update
  if [ "${VERSION_CODENAME:-}" = bookworm ]; then install -t bookworm-backports mesa-vulkan-drivers; else install mesa-vulkan-drivers; fi
fi
dpkg -s libvulkan1 >/dev/null 2>&1 || { update && install libvulkan1; }
if ! command -v spirv-as >/dev/null 2>&1 || ! command -v gcc >/dev/null 2>&1 || [ ! -e /usr/include/vulkan/vulkan.h ]; then
  update && install spirv-tools gcc libc6-dev libvulkan-dev
fi
command -v chromium >/dev/null 2>&1 || { update && install chromium; }
command -v promtool >/dev/null 2>&1 || { update && install prometheus; }
if $full; then
  ls /usr/share/postgresql/*/extension/vector.control >/dev/null 2>&1 || { update && $sudo env DEBIAN_FRONTEND=noninteractive "$(dirname "$0")/../test/rag/install-pgvector.sh" >/dev/null; }
fi
echo "ci-setup: mesa $(dpkg-query -W -f='${Version}' mesa-vulkan-drivers), $(chromium --version 2>/dev/null || echo 'no chromium'), promtool $(promtool --version 2>/dev/null | head -1 | cut -d' ' -f3 || true)"
