"""The train stage: shards in, a published model with its curves out. Prepares first where there are no shards."""

from collections.abc import Sequence

from detcore.launch import parser, read_config, run_main, train


def main(arguments: Sequence[str]) -> int:
    config = read_config(parser(__doc__).parse_args(arguments))
    result = train(config)
    if result.model_dir is None:
        print(f"stopped at step {result.step} by {result.stopped}; the same command goes on from there")
    else:
        print(f"published: {config.run_dir}/model")
    return result.exit_code


if __name__ == "__main__":
    run_main(main)
