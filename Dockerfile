# Fabella in a container:
#   docker build -t fabella .                                    CPU only, with the extras of EXTRAS
#   docker build -t fabella:cuda --build-arg COMPUTE=cuda .      for NVIDIA GPUs (run with --gpus all)
#   docker build -t fabella --build-arg EXTRAS=serve,tune .     other extras of pyproject.toml, or none: EXTRAS=
#   docker build -t fabella --build-arg COMPILER= .              without a C++ compiler: slower decoding, no --compile
#   docker run --rm -it --user "$(id -u)" -v "$PWD/data:/story/data" -v "$PWD/runs:/story/runs" fabella
#   docker run --rm -p 8000:8000 -v "$PWD/runs:/story/runs" fabella serve runs/mine --host 0.0.0.0
FROM python:3.12.11-slim-bookworm

ARG COMPUTE=cpu
ARG EXTRAS=hub,parquet,serve,track,zstd
ARG COMPILER=g++
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /build

# 0. the compiler of the native decoder and of torch.compile
RUN test -z "$COMPILER" || { apt-get update \
    && apt-get install -y --no-install-recommends "$COMPILER" \
    && rm -rf /var/lib/apt/lists/*; }

# 1. torch, the largest layer: renewed only when a pin changes. The usual Linux build brings CUDA with it.
COPY constraints.txt ./
RUN case "$COMPUTE" in \
      cpu)  pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)" ;; \
      cuda) pip install --no-cache-dir -c constraints.txt torch ;; \
      *)    echo "COMPUTE is '$COMPUTE'; it is cpu or cuda" >&2; exit 2 ;; \
    esac

# 2. everything else that is pinned, without Fabella's own files, so that editing these reuses the layer
COPY pyproject.toml ./
RUN mkdir -p src/fabella && touch README.md LICENSE src/fabella/__init__.py \
    && pip install --no-cache-dir -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"

# 3. Fabella
COPY README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --no-deps --force-reinstall . \
    && useradd --create-home --uid 1000 fabella \
    && mkdir -p /story/data /story/runs /story/.cache \
    && chown -R fabella:fabella /story \
    && chmod -R a+rwX /story

# Any uid of --user can write here; a caller's uid has no home directory.
ENV HOME=/story XDG_CACHE_HOME=/story/.cache
USER fabella
WORKDIR /story
EXPOSE 8000
VOLUME ["/story/data", "/story/runs"]
ENTRYPOINT ["fabella"]
CMD ["quickstart"]
