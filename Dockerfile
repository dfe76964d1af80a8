# Two stages: the first puts together every file that the image adds to its base, the second copies them and runs
# nothing, so that no trace of a package index, a cache or a clock can stay behind. How to build it, reproducibly and
# checked: docs/how-to/container.md. Pin the base for good with --build-arg BASE=<name>@sha256:<digest>.
ARG BASE=docker.io/library/python:3.13.9-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /src
# The release of the base names its version; a number here would end the build at the release's next update.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils
COPY requirements.lock requirements-build.lock ./
# pip and the build back end stay behind in /opt/build; /opt/broker holds what the lock names and nothing else.
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --require-hashes --no-deps --only-binary :all: -r requirements-build.lock \
 && python -m venv --without-pip /opt/broker \
 && /opt/build/bin/python -m pip --python /opt/broker/bin/python install \
      --require-hashes --no-compile --no-deps --only-binary :all: -r requirements.lock
# What follows the installation goes because nothing reads it where the broker runs: what compilers need, and the debug
# information that wheels carry, which is 10 MB.
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY broker ./broker
# `broker version` names the commit, as the label below does: --build-arg REVISION=$(git rev-parse HEAD)
ARG REVISION=
RUN PATH=/opt/build/bin:$PATH SOURCE_COMMIT=${REVISION} hatchling build -t wheel -d /dist \
 && /opt/build/bin/python -m pip --python /opt/broker/bin/python install --no-compile --no-deps --no-index /dist/*.whl \
 && find /opt/broker/bin -type f ! -name broker -delete \
 && find /opt/broker/lib \( -name direct_url.json -o -name '*.py[ix]' -o -name '*.px[di]' -o -name '*.proto' -o -name '*.h' \) -delete \
 && find /opt/broker/lib -name '*.so' -exec strip --strip-debug {} +
COPY deploy/image/compile_imported.py /
# A fixed uid, so that volumes and pod security contexts can name it. The root is read-only where the broker runs, so
# bytecode that is not here would be compiled at every start and at every health check.
RUN install -d /rootfs/etc/logflux-broker /rootfs/opt \
 && install -d -o 1000 -g 1000 -m 0700 /rootfs/var/lib/logflux-broker \
 && cp /etc/passwd /etc/group /rootfs/etc/ \
 && echo 'broker:x:1000:1000:logflux-broker:/nonexistent:/usr/sbin/nologin' >>/rootfs/etc/passwd \
 && echo 'broker:x:1000:' >>/rootfs/etc/group \
 && cp -a /opt/broker /rootfs/opt/ \
 && /opt/broker/bin/python /compile_imported.py /rootfs

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="logflux-broker" \
      org.opencontainers.image.description="A secrets broker: references in over mTLS, credentials out, audited first" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# There is no key in any layer: keys are mounted.
COPY --from=build /rootfs/ /
ENV PATH=/opt/broker/bin:$PATH PYTHONDONTWRITEBYTECODE=1 LOGFLUX_CONFIG=/etc/logflux-broker/broker.yaml
USER 1000:1000
# The root may be read-only: the broker writes below its state volume alone.
VOLUME ["/var/lib/logflux-broker"]
EXPOSE 8443
STOPSIGNAL SIGTERM
# An engine ends what is not healthy, and with it the values that outlive an outage of the store.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["broker", "health", "--exclude", "vault"]
ENTRYPOINT ["broker"]
CMD ["serve"]
