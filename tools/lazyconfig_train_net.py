"""Train or evaluate what a LazyConfig describes: `mic-det lazy`."""

from mic_det_console import run

if __name__ == "__main__":
    run("lazy", "python tools/lazyconfig_train_net.py")
