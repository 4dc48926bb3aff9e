# One static program in an otherwise empty image: docs/docker.md says why, and how to run it.
# Works with the classic builder and BuildKit, on amd64 and arm64; where no registry is reachable, scripts/base-images
# makes stand-ins for the images that are named here.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=scratch

FROM ${RUST_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src

# Static: libc's resolver of names in /etc/hosts and DNS is inside, and nothing else of it would be asked for. The
# target is named so that only the program gets this flag, not what runs while it is built.
ENV CARGO_INCREMENTAL=0 \
    CARGO_TERM_COLOR=never \
    RUSTFLAGS="-C target-feature=+crt-static"

# The dependencies, in a layer of their own: it is made again only when they change. The sources that the manifest
# speaks of stand in as empty ones.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/peers \
    && echo 'fn main() {}' | tee src/main.rs benches/micro.rs benches/ledger.rs benches/peers/main.rs >/dev/null \
    && touch src/lib.rs \
    && cargo build --release --locked --bin archiver --target "$(rustc -vV | sed -n 's/^host: //p')" \
    && rm -r src

COPY src src
# What was built from the empty sources is newer than the real ones.
RUN find src -name '*.rs' -exec touch {} + \
    && target=$(rustc -vV | sed -n 's/^host: //p') \
    && cargo build --release --locked --bin archiver --target "$target" \
    && install "target/$target/release/archiver" /archiver \
    && if readelf --program-headers --wide /archiver | grep INTERP; then exit 1; fi

# All that the image has. The ledger's directory is open to any user and group, as /tmp is: whoever runs the container
# chooses them, and nobody else is in it. A Kubernetes emptyDir is the same.
COPY LICENSE-* ./
ARG SOURCE_DATE_EPOCH=0
RUN install -D /archiver /image/usr/local/bin/archiver \
    && install -D --mode=644 --target-directory=/image/usr/share/doc/archiver LICENSE-* \
    && install -d --mode=1777 /image/tmp /image/var/lib/archiver \
    && find /image -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.0.0-dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="archiver" \
      org.opencontainers.image.description="Moves finished files to an SFTP server, into dated folders, exactly once" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/ /

# The ledger is /var/lib/archiver/ledger.db, and ~/.ssh/known_hosts is beside it.
ENV PATH=/usr/local/bin \
    HOME=/var/lib/archiver \
    XDG_STATE_HOME=/var/lib \
    ARCHIVER_METRICS=:9090
EXPOSE 9090
# Of `watch` and `run`; with ARCHIVER_METRICS=none it is always content.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["archiver", "health"]
VOLUME /var/lib/archiver
# Any other will do as well.
USER 65532:0
ENTRYPOINT ["archiver"]
CMD ["watch"]
