"""What pyproject.toml can't say: the top-level share/ is installed inside the package, as chp/share/.

Data files of the package are found wherever it is installed; sys.prefix/share would not be there
in an editable installation, nor with pip install --user or --target.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["chp", "chp.*"]), "chp.share"],
    package_dir={"chp.share": "share"},
    package_data={
        "chp": ["py.typed"],
        "chp.share": ["chp-errors/*.html", "systemd/*.service", "docker/Dockerfile"],
    },
)
