# syntax=docker/dockerfile:1
# Two stages: the first makes a virtual environment out of the lock file, the second carries only that.
FROM python:3.13.9-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/broker \
 && /opt/broker/bin/python -m pip install --require-hashes --no-deps --only-binary :all: -r requirements.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY broker ./broker
# The build back end is pinned in pyproject.toml; the package itself brings no further dependency.
# `broker version` names the commit: --build-arg REVISION=$(git rev-parse HEAD). It is unknown without that.
ARG REVISION=
RUN SOURCE_COMMIT=${REVISION} /opt/broker/bin/python -m pip install --no-deps . \
 && /opt/broker/bin/python -m pip uninstall --yes pip

FROM python:3.13.9-slim-bookworm
LABEL org.opencontainers.image.title="logflux-broker" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed uid, so that volumes and pod security contexts can name it. There is no key in any layer: keys are mounted.
RUN groupadd --gid 1000 broker \
 && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin broker \
 && install --directory --owner 1000 --group 1000 --mode 0700 /var/lib/logflux-broker
COPY --from=build /opt/broker /opt/broker
ENV PATH=/opt/broker/bin:$PATH PYTHONDONTWRITEBYTECODE=1 LOGFLUX_CONFIG=/etc/logflux-broker/broker.yaml
USER 1000:1000
# The root may be read-only: the broker writes below its state volume alone.
VOLUME ["/var/lib/logflux-broker"]
EXPOSE 8443
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["broker", "health"]
ENTRYPOINT ["broker"]
CMD ["serve"]
