#!/bin/sh
# Fetches models into a folder that several pods may share, once: fetch_models.sh s3://BUCKET/PREFIX FOLDER
# Whoever holds the lock fetches; the others wait for it and then find the mark.
set -eu
uri=$1 folder=$2
mark="$folder/.fetched-$(printf %s "$uri" | sha256sum | cut -c1-16)"
exec 9>"$folder/.lock"
flock 9
if [ -e "$mark" ]; then
  echo "$uri is there already"
  exit 0
fi
rclone copy --no-update-modtime ":s3:${uri#s3://}" "$folder"
: >"$mark"
echo "$uri fetched"
