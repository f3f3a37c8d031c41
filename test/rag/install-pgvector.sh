#!/usr/bin/env bash
# Installs PostgreSQL and the pgvector extension on Debian, for the tests of stores/pgvector.ts (npm run test:full). Where the release
# has no package of pgvector (Debian 12), it is built from the source package of a later one. Needs root; does nothing when all is there.
set -euo pipefail

extension_folder() { echo "/usr/share/postgresql/$1/extension"; }
installed_version() { ls /usr/lib/postgresql 2>/dev/null | sort -n | tail -1; }

version="$(installed_version)"
if [ -z "$version" ]; then
  apt-get install -y --no-install-recommends postgresql
  version="$(installed_version)"
fi
if [ -e "$(extension_folder "$version")/vector.control" ]; then
  echo "pgvector is installed for PostgreSQL $version"
  exit 0
fi
if apt-cache show "postgresql-$version-pgvector" >/dev/null 2>&1; then
  exec apt-get install -y --no-install-recommends "postgresql-$version-pgvector"
fi

apt-get install -y --no-install-recommends build-essential dpkg-dev "postgresql-server-dev-$version"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial"
# The mirror that this machine already uses, one release on; its own package lists stay as they are.
mirror="$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -1)"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb-src [signed-by=$keyring] ${mirror%/} trixie main" > "$work/sources.list"
options=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update
(cd "$work" && apt-get "${options[@]}" source --only-source pgvector)
make -C "$work"/pgvector-*/ -j2 OPTFLAGS="" PG_CONFIG="/usr/lib/postgresql/$version/bin/pg_config" with_llvm=no
make -C "$work"/pgvector-*/ install PG_CONFIG="/usr/lib/postgresql/$version/bin/pg_config" with_llvm=no
